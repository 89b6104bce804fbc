//! The differential test: what clients receive through the proxy is what they receive from PostgreSQL directly. `TDB_SOAK` sets
//! its duration in seconds, and `TDB_TEST_SEED` the seed; by default it runs a fixed number of rounds of a fixed seed.

use std::collections::BTreeMap;
use std::sync::OnceLock;
use std::thread;
use std::time::{Duration, Instant};

use tdb_tests::InstanceOptions;
use tdb_tests::differential::client::Recording;
use tdb_tests::differential::comparison::{Difference, Senders, compare, count};
use tdb_tests::differential::faults::{Fault, FaultyRelay};
use tdb_tests::differential::generator::Mix;
use tdb_tests::differential::round::Round;
use tdb_tests::differential::shrinking::shrink;
use tdb_tests::differential::thief::Thieves;
use tdb_tests::differential::twins::{Twins, WORKSPACE};

const SEED: u64 = 0x7465_6e61_6e74;
/// The tenants of the comparison, with this number of clients each.
const COMPARED: [&str; 3] = ["acme", "beta", WORKSPACE];
const CLIENTS: usize = 3;
/// The tenants whose clients share server connections. There is one connection for each client, so that all of them can hold
/// state that pins it, and none for the thieves.
const SHARING: [&str; 2] = ["coop", "duet"];
/// The tenants of the planted faults.
const FAULTY: [&str; 2] = ["dent", "echo"];
const CLIENTS_WITH_FAULT: usize = 2;
/// Of the run without `TDB_SOAK`.
const ROUNDS: u64 = 25;
/// The number of rounds within which a fault must have been planted; most are in the first.
const ROUNDS_WITH_FAULT: u64 = 12;
/// How long a client waits for a message before the stream counts as silent.
const PATIENCE: Duration = Duration::from_secs(30);
/// The same after a planted fault or a difference, when clients may wait in vain.
const PATIENCE_WITH_FAULT: Duration = Duration::from_secs(5);
const SHRINK_TIME_MAX: Duration = Duration::from_secs(60);
/// The types of all messages that a server sends after a login. CopyBothResponse is for replication only.
const MESSAGES: &str = "123ACDEGHINSTVZcdnst";

static TWINS: OnceLock<Twins> = OnceLock::new();

/// The tests run at the same time, so they have different tenants.
fn twins() -> &'static Twins {
    TWINS.get_or_init(|| Twins::start(&["acme", "beta", "dent", "echo"], &InstanceOptions::default()))
}

#[test]
fn streams_through_the_proxy_are_those_of_the_server() {
    let counts = compare_streams(twins(), &COMPARED, Senders::ByProcess);
    let missing: Vec<char> = MESSAGES.chars().filter(|tag| !counts.contains_key(tag)).collect();
    assert!(missing.is_empty(), "no message of the types {missing:?} was compared");
}

/// Other clients take every connection that is idle and may be taken.
#[test]
fn streams_of_clients_that_share_connections_are_those_of_the_server() {
    let twins = Twins::start(&SHARING, &InstanceOptions::pooled(SHARING.len() * CLIENTS));
    let thieves = Thieves::start(SHARING.map(|tenant| twins.proxied(tenant)));
    compare_streams(&twins, &SHARING, Senders::ByPayload);
    let taken = thieves.stop();
    assert!(taken > 100, "the thieves got {taken} connections only");
}

/// Runs rounds and panics at the first difference. Returns how many messages of each type were compared.
fn compare_streams(twins: &Twins, tenants: &[&str], senders: Senders) -> BTreeMap<char, usize> {
    let seed = seed();
    let duration = std::env::var("TDB_SOAK").ok().map(|text| {
        let seconds = text.parse().expect("TDB_SOAK is a number of seconds");
        Duration::from_secs(seconds)
    });
    let begun = Instant::now();
    let (mut rounds, mut counts) = (0, BTreeMap::new());
    let url = |tenant: &str| twins.proxied(tenant);
    let run = |round: &Round, patience, counts: &mut _| {
        let (direct, proxied) = run(twins, round, url, patience, counts);
        compare(round, &direct, &proxied, senders)
    };
    while duration.map_or(rounds < ROUNDS, |duration| begun.elapsed() < duration) {
        let round = Round::generate(seed, rounds, tenants, CLIENTS, Mix::Everything);
        let differences = run(&round, PATIENCE, &mut counts);
        if !differences.is_empty() {
            let deadline = Instant::now() + SHRINK_TIME_MAX;
            let smallest = shrink(&round, |smaller| {
                Instant::now() < deadline && !run(smaller, PATIENCE_WITH_FAULT, &mut BTreeMap::new()).is_empty()
            });
            let smaller = run(&smallest, PATIENCE_WITH_FAULT, &mut BTreeMap::new());
            let (first, smaller) = (describe(&round, &differences), describe(&smallest, &smaller));
            panic!("TDB_TEST_SEED={seed}, round {rounds}\n{first}\nafter shrinking:\n{smaller}");
        }
        rounds += 1;
    }
    eprintln!("{rounds} rounds in {:?}; messages: {counts:?}", begun.elapsed());
    counts
}

#[test]
fn every_planted_fault_is_found() {
    let seed = seed();
    assert_eq!(outcome(seed, Fault::None), Outcome::NotPlanted);
    let mut missed = Vec::new();
    for (fault, description) in Fault::TABLE {
        let outcome = outcome(seed, fault);
        eprintln!("{description}: {outcome:?}");
        if outcome != Outcome::Found {
            missed.push((description, outcome));
        }
    }
    assert!(missed.is_empty(), "not found: {missed:#?}");
}

#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    /// No answer was changed, and all streams were the same.
    NotPlanted,
    /// Answers were changed, and the streams of the clients that received them were the same.
    Missed,
    Found,
}

/// Runs rounds through a relay until it has planted the fault. Without a fault, one round.
fn outcome(seed: u64, fault: Fault) -> Outcome {
    let proxy = twins().instance.proxy();
    let (rounds, patience) = match fault {
        Fault::None => (1, PATIENCE),
        _ => (ROUNDS_WITH_FAULT, PATIENCE_WITH_FAULT),
    };
    for number in 0..rounds {
        let round = Round::generate(seed, number, &FAULTY, CLIENTS_WITH_FAULT, Mix::Whole);
        let relay = FaultyRelay::start(proxy, fault).expect("a relay");
        let url = |tenant: &str| twins().proxied(tenant).replace(proxy, &relay.address());
        let (direct, proxied) = run(twins(), &round, url, patience, &mut BTreeMap::new());
        let differences = compare(&round, &direct, &proxied, Senders::ByProcess);
        let touched = relay.touched();
        if touched.is_empty() {
            assert!(differences.is_empty(), "{}", describe(&round, &differences));
            continue;
        }
        let is_found = differences.iter().any(|difference| {
            let client = round.scripts[difference.script].tag.to_string();
            touched.contains(&client)
        });
        return if is_found { Outcome::Found } else { Outcome::Missed };
    }
    Outcome::NotPlanted
}

/// Runs the round directly and through the proxy, at the same time. Adds to `counts` what was received through the proxy.
fn run(
    twins: &Twins,
    round: &Round,
    proxied: impl Fn(&str) -> String + Send,
    patience: Duration,
    counts: &mut BTreeMap<char, usize>,
) -> (Vec<Recording>, Vec<Recording>) {
    let (direct, proxied) = thread::scope(|scope| {
        let proxied = scope.spawn(|| round.run(proxied, patience));
        let direct = round.run(|tenant| twins.direct(tenant), PATIENCE);
        (direct, proxied.join().expect("the proxied round"))
    });
    count(&proxied, counts);
    (direct, proxied)
}

fn describe(round: &Round, differences: &[Difference]) -> String {
    let mut text = format!("{} of {} streams differ\n", differences.len(), round.scripts.len());
    for difference in differences {
        text.push_str(&format!("{}\n{}\n", difference.text, round.scripts[difference.script]));
    }
    text
}

fn seed() -> u64 {
    let given = std::env::var("TDB_TEST_SEED").ok();
    let seed = given.map_or(SEED, |text| text.parse().expect("TDB_TEST_SEED is a number"));
    // Printed, so that a failure can be reproduced.
    eprintln!("TDB_TEST_SEED={seed}");
    seed
}
