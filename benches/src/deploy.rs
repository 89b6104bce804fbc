//! How long a deployment of one ALTER TABLE to many tenants takes, compared with the minimum (one new connection for each
//! tenant that runs only the statement, with the same parallelism) and with `xargs -P psql`.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use clap::Args;
use secrecy::{ExposeSecret, SecretString};
use tdb_auth::{ITERATIONS_RANDOM_SECRET, ScramVerifier};
use tdb_client::deployments::{CreateDeployment, Job, JobStatus};
use tdb_client::tenants::Tenant;

use crate::instance::Instance;
use crate::pgbench::Endpoint;
use crate::report::{Table, write_csv};
use crate::schema;
use crate::server::{Session, connect};
use crate::statistics::{Ratio, median};

const BLUEPRINT: &str = "bench";
const TABLES: u32 = 20;
const POLL: Duration = Duration::from_millis(25);
const DEPLOYMENT_TIME_MAX: Duration = Duration::from_secs(300);
/// The role of the direct connections and of psql.
const PEER: &str = "bench_peer";

/// Measures deployments to many tenants.
#[derive(Args, Debug)]
pub(crate) struct Options {
    #[arg(long, default_value_t = 10)]
    rounds: u32,
    #[arg(long, default_value_t = 200)]
    tenants: u32,
    /// Parallel connections of the direct way and of xargs; a deployment uses 4 for each server.
    #[arg(long, default_value_t = 4)]
    parallel: usize,
    /// The directory for the raw numbers.
    #[arg(long, default_value_os_t = crate::report::results_dir())]
    results: PathBuf,
}

/// The seconds for all tenants.
#[derive(Clone, Copy, Debug)]
struct Round {
    deployment: f64,
    floor: f64,
    xargs: f64,
}

/// The tenants, and how to connect to them without TenantsDB.
struct Fleet {
    instance: Instance,
    /// The address of each tenant's database, with the role of the direct connections.
    databases: Arc<Vec<Endpoint>>,
    parallel: usize,
}

pub(crate) fn run(options: &Options) -> Result<()> {
    let fleet = Fleet::make(options)?;
    let mut rounds = Vec::new();
    for number in 0..options.rounds {
        rounds.push(fleet.measure(number)?);
        eprintln!("round {} of {} done", number + 1, options.rounds);
    }
    report(options, &rounds)
}

impl Fleet {
    fn make(options: &Options) -> Result<Self> {
        let instance = Instance::start()?;
        instance.blueprint(BLUEPRINT, &schema::ddl(TABLES))?;
        let mut tenants = vec![instance.tenant("t0", BLUEPRINT)?];
        tenants.extend(others(&instance, options)?);
        let server = peer(&instance)?;
        let databases: Result<Vec<Endpoint>> = tenants
            .iter()
            .map(|tenant| {
                let physical = instance.tenant_endpoint(tenant)?.current_database()?;
                Ok(Endpoint {
                    database: physical,
                    ..server.clone()
                })
            })
            .collect();
        eprintln!("{} tenants created", tenants.len());
        Ok(Self {
            instance,
            databases: Arc::new(databases?),
            parallel: options.parallel,
        })
    }

    /// Runs all three once, in an order that rotates with the round.
    fn measure(&self, number: u32) -> Result<Round> {
        let mut round = Round {
            deployment: 0.0,
            floor: 0.0,
            xargs: 0.0,
        };
        for turn in 0..3 {
            match (number + turn) % 3 {
                0 => round.deployment = self.deployment(number)?,
                1 => {
                    round.floor = self.floor("ALTER TABLE item_1 ADD COLUMN peer text")?;
                    self.floor("ALTER TABLE item_1 DROP COLUMN peer")?;
                }
                _ => {
                    round.xargs = self.xargs("ALTER TABLE item_1 ADD COLUMN peer text")?;
                    self.floor("ALTER TABLE item_1 DROP COLUMN peer")?;
                }
            }
        }
        Ok(round)
    }

    /// From the request to the end of the job, including the build and verification of the new version.
    fn deployment(&self, number: u32) -> Result<f64> {
        self.instance
            .change(BLUEPRINT, &format!("ALTER TABLE item_1 ADD COLUMN extra_{number} text"))?;
        let request = CreateDeployment {
            blueprint_name: BLUEPRINT.to_owned(),
            deploy_all: true,
            ..CreateDeployment::default()
        };
        let start = Instant::now();
        let mut job = self
            .instance
            .api
            .create_deployment(&request)
            .context("create the deployment")?
            .body;
        let id = job.job_id.clone().context("a deployment without id")?;
        while !job.status.is_final() {
            ensure!(
                start.elapsed() < DEPLOYMENT_TIME_MAX,
                "the deployment is at {}",
                job.progress_display
            );
            thread::sleep(POLL);
            job = self.instance.api.deployment(&id)?;
        }
        let elapsed = start.elapsed().as_secs_f64();
        complete(&job, self.databases.len())?;
        Ok(elapsed)
    }

    fn floor(&self, sql: &'static str) -> Result<f64> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()?;
        let next = Arc::new(AtomicUsize::new(0));
        let start = Instant::now();
        let workers: Vec<_> = (0..self.parallel)
            .map(|_| runtime.spawn(alter_each(Arc::clone(&self.databases), Arc::clone(&next), sql)))
            .collect();
        for worker in workers {
            runtime.block_on(worker)??;
        }
        Ok(start.elapsed().as_secs_f64())
    }

    fn xargs(&self, sql: &str) -> Result<f64> {
        let any = self.databases.first().context("no tenants")?;
        let psql = any.command("psql")?;
        let start = Instant::now();
        let mut child = any
            .command_of("xargs")
            .args(["-P", &self.parallel.to_string(), "-I", "{}"])
            .arg(psql.get_program())
            .args(["-X", "-q", "-v", "ON_ERROR_STOP=1", "-d", "{}", "-c", sql])
            .stdin(Stdio::piped())
            .spawn()
            .context("start xargs")?;
        let mut names = child.stdin.take().context("standard input of xargs")?;
        for database in self.databases.iter() {
            writeln!(names, "{}", database.database)?;
        }
        drop(names);
        ensure!(child.wait()?.success(), "xargs psql failed");
        Ok(start.elapsed().as_secs_f64())
    }
}

async fn alter_each(databases: Arc<Vec<Endpoint>>, next: Arc<AtomicUsize>, sql: &'static str) -> Result<()> {
    while let Some(database) = databases.get(next.fetch_add(1, Ordering::Relaxed)) {
        let client = connect(database).await?;
        client
            .batch_execute(sql)
            .await
            .with_context(|| format!("{sql} in {}", database.database))?;
    }
    Ok(())
}

/// Creates the other tenants with `parallel` threads.
fn others(instance: &Instance, options: &Options) -> Result<Vec<Tenant>> {
    let next = AtomicUsize::new(1);
    let last = usize::try_from(options.tenants)?;
    let make = || -> Result<Vec<Tenant>> {
        let mut made = Vec::new();
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= last {
                return Ok(made);
            }
            made.push(instance.tenant(&format!("t{number}"), BLUEPRINT)?);
        }
    };
    thread::scope(|scope| {
        let threads: Vec<_> = (0..options.parallel).map(|_| scope.spawn(make)).collect();
        let mut tenants = Vec::new();
        for thread in threads {
            tenants.extend(
                thread
                    .join()
                    .map_err(|_| anyhow!("a thread that makes tenants panicked"))??,
            );
        }
        Ok(tenants)
    })
}

/// Creates a role whose login is as cheap as that of TenantsDB's roles: a verifier of a random secret with one iteration.
fn peer(instance: &Instance) -> Result<Endpoint> {
    let server = instance.server_endpoint("postgres")?;
    let secret: SecretString = server.password.clone().into();
    let verifier = ScramVerifier::derive(&secret, ITERATIONS_RANDOM_SECRET)?;
    Session::open(&server)?.run(&format!("CREATE ROLE {PEER} LOGIN SUPERUSER PASSWORD '{verifier}'"))?;
    Ok(Endpoint {
        user: PEER.to_owned(),
        password: secret.expose_secret().to_owned(),
        ..server
    })
}

fn complete(job: &Job, tenants: usize) -> Result<()> {
    let done = usize::try_from(job.completed_tenants)?;
    let fine = job.status == JobStatus::Completed && done == tenants;
    ensure!(
        fine,
        "the deployment is {} at {}",
        job.status.as_str(),
        job.progress_display
    );
    let drifted = job.targets.iter().flatten().filter(|target| target.drift).count();
    ensure!(drifted == 0, "{drifted} tenants drifted");
    Ok(())
}

fn report(options: &Options, rounds: &[Round]) -> Result<()> {
    write_csv(
        &options.results,
        "deploy",
        "round,tenants,parallel,deployment_seconds,fresh_connections_seconds,xargs_psql_seconds",
        rounds.iter().enumerate().map(|(number, round)| {
            let Round {
                deployment,
                floor,
                xargs,
            } = round;
            let (tenants, parallel) = (options.tenants, options.parallel);
            format!("{number},{tenants},{parallel},{deployment:.3},{floor:.3},{xargs:.3}")
        }),
    )?;
    let seconds = |of: fn(&Round) -> f64| -> Vec<f64> { rounds.iter().map(of).collect() };
    let floor = seconds(|round| round.floor);
    let parallel = options.parallel;
    let mut table = Table::new(&["what", "seconds, median", "tenants/s", "time / floor (95 %)"]);
    for (name, own) in [
        ("deployment".to_owned(), seconds(|round| round.deployment)),
        (format!("{parallel} fresh connections"), floor.clone()),
        (format!("xargs -P{parallel} psql"), seconds(|round| round.xargs)),
    ] {
        let middle = median(&own).context("no rounds")?;
        let ratio = Ratio::of_pairs(&own, &floor).context("no rounds")?;
        table.row([
            name,
            format!("{middle:.2}"),
            format!("{:.0}", f64::from(options.tenants) / middle),
            format!("{:.2} ({:.2}..{:.2})", ratio.median, ratio.low, ratio.high),
        ]);
    }
    println!(
        "{} rounds, {} tenants of {TABLES} tables, one ALTER TABLE\n{table}",
        rounds.len(),
        options.tenants
    );
    Ok(())
}
