//! A round: the clients of several tenants run their scripts at the same time.

use std::sync::Barrier;
use std::thread;
use std::time::Duration;

use super::client::{Meeting, Recording, record};
use super::generator::{Mix, generate};
use super::random::Random;
use super::script::{Script, Tag};

/// The scripts of all clients.
#[derive(Clone, Debug)]
pub struct Round {
    pub scripts: Vec<Script>,
}

impl Round {
    /// The scripts of round `number` of a seed, for this number of clients of each tenant.
    pub fn generate(seed: u64, number: u64, tenants: &[&str], clients: usize, mix: Mix) -> Self {
        let mut random = Random::new(seed.wrapping_add(number.wrapping_mul(0x1000_0001)));
        let mut scripts = Vec::new();
        for tenant in tenants {
            for client in 0..clients {
                let tag = Tag {
                    tenant: (*tenant).to_owned(),
                    client,
                    script: number,
                };
                scripts.push(generate(tag, &mut random, mix));
            }
        }
        Self { scripts }
    }

    /// Runs all scripts at the same time, each with the connection string that `url` returns for its tenant. The recordings
    /// are in the order of the scripts.
    pub fn run(&self, url: impl Fn(&str) -> String, patience: Duration) -> Vec<Recording> {
        let (ready, finished) = (Barrier::new(self.scripts.len()), Barrier::new(self.scripts.len()));
        let meeting = &Meeting {
            ready: &ready,
            finished: &finished,
        };
        thread::scope(|scope| {
            let running: Vec<_> = self
                .scripts
                .iter()
                .map(|script| {
                    let url = url(&script.tag.tenant);
                    scope.spawn(move || record(&url, script, patience, meeting))
                })
                .collect();
            running
                .into_iter()
                .map(|client| client.join().expect("a client"))
                .collect()
        })
    }
}
