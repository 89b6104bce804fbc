//! The composition of the control plane. Each part is created once, in order of dependency, and holds the parts that it
//! uses and its own state. Methods that take an [`crate::Identity`] act within its project and check its scope
//! themselves.

use std::ops::Deref;
use std::sync::Arc;

use async_trait::async_trait;
use tdb_auth::ClientTls;
use tdb_contract::{
    ChangeSink, DataStatements, Drained, Prepared, Repair, RouteKind, SessionStart, Unavailable, WorkspaceText,
};
use tdb_names::WorkspaceId;
use tdb_store::Store;
use tokio::sync::Notify;
use tokio::task::JoinError;

use crate::core::{ControlSettings, Core};
use crate::error::Result;
use crate::idempotency::Idempotency;
use crate::jobs::Jobs;
use crate::lifecycle::accounts::Accounts;
use crate::lifecycle::closing::Closing;
use crate::lifecycle::creations::Creations;
use crate::lifecycle::credentials::Credentials;
use crate::lifecycle::declared_roles::DeclaredRoles;
use crate::lifecycle::fleet::Queries;
use crate::lifecycle::limits::Limits;
use crate::lifecycle::memberships::Memberships;
use crate::lifecycle::place::Placement;
use crate::lifecycle::provision::Provisioning;
use crate::lifecycle::readers::ReadAccess;
use crate::lifecycle::registry::Registry;
use crate::lifecycle::repairs::Repairs;
use crate::lifecycle::servers::Servers;
use crate::lifecycle::settings::Settings;
use crate::lifecycle::signup::Users;
use crate::lifecycle::tenants::Tenants;
use crate::lifecycle::workspaces::Workspaces;
use crate::metrics::Metrics;
use crate::schema::ahead::Ahead;
use crate::schema::blueprints::Blueprints;
use crate::schema::builds::Builds;
use crate::schema::deployments::Deployments;
use crate::schema::drain::Drains;
use crate::schema::drain_timer::DrainTimer;
use crate::schema::drift::Drifts;
use crate::schema::extensions::Extensions;
use crate::schema::failing::Trials;
use crate::schema::head::Heads;
use crate::schema::proof::Proofs;
use crate::schema::reverts::Reverts;
use crate::schema::rollout::Rollouts;
use crate::schema::skips::Skips;
use crate::schema::stock::Stock;
use crate::schema::templates::Templates;
use crate::schema::versions::Versions;
use crate::schema::watches::Watches;
use crate::sweep::Sweep;

/// A handle on all use cases, cheap to clone: `control.tenants.create(…)`.
#[derive(Clone)]
pub struct Control {
    parts: Arc<Parts>,
}

/// The use cases of the control plane, grouped by subject.
pub struct Parts {
    core: Arc<Core>,
    /// Enrolment of servers that the configuration names.
    pub servers: Servers,
    /// Database servers, for the operator.
    pub registry: Registry,
    /// Workspaces: create, show, delete.
    pub workspaces: Workspaces,
    /// Blueprints: list, show, and the changes that a deployment would bring.
    pub blueprints: Blueprints,
    /// Versions of blueprints.
    pub versions: Versions,
    /// Excluding changes from head.
    pub skips: Skips,
    /// Undoing changes in the workspace.
    pub reverts: Reverts,
    /// Extensions, including those that only a superuser may create.
    pub extensions: Extensions,
    /// Settings of workspaces, which apply to their tenants.
    pub settings: Settings,
    /// Tenants: create, show, suspend, delete, restore.
    pub tenants: Tenants,
    /// What tenants' clients may use.
    pub limits: Limits,
    /// Deployments: plan, create, list, retry.
    pub deployments: Deployments,
    /// Following deployments while they run.
    pub watches: Watches,
    /// Differences between databases and the schemas that they should have.
    pub drifts: Drifts,
    /// Queries in workspaces and tenants.
    pub queries: Queries,
    /// Credentials: the users and passwords of clients.
    pub credentials: Credentials,
    /// Projects, API keys, authentication.
    pub accounts: Accounts,
    /// Roles without login that projects declare.
    pub roles: DeclaredRoles,
    /// Sign-up and login.
    pub users: Users,
    /// Requests with an idempotency key.
    pub idempotency: Idempotency,
    /// The installation's figures for `/metrics`.
    pub metrics: Metrics,
    /// The background workers.
    pub jobs: Jobs,
    repairs: Repairs,
    drains: Drains,
}

impl Deref for Control {
    type Target = Parts;

    fn deref(&self) -> &Parts {
        &self.parts
    }
}

/// The parts that workspaces and tenants both use: databases on servers.
struct BaseParts {
    core: Arc<Core>,
    servers: Servers,
    placement: Placement,
    read_access: ReadAccess,
    repairs: Repairs,
    templates: Templates,
    drains: Drains,
    workspaces: Workspaces,
}

impl BaseParts {
    fn new(core: Core, tls: ClientTls) -> Self {
        let core = Arc::new(core);
        let servers = Servers::new(&core, tls);
        let memberships = Memberships {
            core: core.clone(),
            servers: servers.clone(),
        };
        let placement = Placement {
            core: core.clone(),
            servers: servers.clone(),
            memberships: memberships.clone(),
        };
        let templates = Templates {
            core: core.clone(),
            servers: servers.clone(),
            placement: placement.clone(),
        };
        let drains = Drains::new(&core, &servers);
        let read_access = ReadAccess {
            core: core.clone(),
            servers: servers.clone(),
            memberships,
        };
        Self {
            repairs: Repairs {
                core: core.clone(),
                servers: servers.clone(),
                placement: placement.clone(),
            },
            workspaces: Workspaces {
                core: core.clone(),
                servers: servers.clone(),
                placement: placement.clone(),
                templates: templates.clone(),
                drains: drains.clone(),
                read_access: read_access.clone(),
            },
            read_access,
            core,
            servers,
            placement,
            templates,
            drains,
        }
    }
}

/// The parts that create versions of schemas.
struct SchemaParts {
    builds: Builds,
    stock: Stock,
    trials: Trials,
    heads: Heads,
    proofs: Proofs,
    versions: Versions,
    creations: Creations,
}

impl SchemaParts {
    fn new(base: &BaseParts) -> Self {
        let BaseParts { core, servers, .. } = base;
        let builds = Builds {
            core: core.clone(),
            servers: servers.clone(),
            placement: base.placement.clone(),
            repairs: base.repairs.clone(),
            templates: base.templates.clone(),
        };
        let creations = Creations::new(core.leases.clone());
        let stock = Stock::new(core, &base.placement, &creations, &builds);
        let trials = Trials {
            core: core.clone(),
            templates: base.templates.clone(),
            builds: builds.clone(),
        };
        let heads = Heads {
            core: core.clone(),
            drains: base.drains.clone(),
        };
        let proofs = Proofs::new(core, servers, &base.drains, &heads, &trials);
        let versions = Versions {
            core: core.clone(),
            servers: servers.clone(),
            workspaces: base.workspaces.clone(),
            templates: base.templates.clone(),
            builds: builds.clone(),
            trials: trials.clone(),
            heads: heads.clone(),
            proofs: proofs.clone(),
        };
        Self {
            builds,
            stock,
            trials,
            heads,
            proofs,
            versions,
            creations,
        }
    }
}

/// The parts that create tenants and deploy versions to them.
struct TenantParts {
    settings: Settings,
    provisioning: Provisioning,
    tenants: Tenants,
    deployments: Deployments,
    rollouts: Rollouts,
    drifts: Drifts,
    wake: Arc<Notify>,
    returned: Arc<Notify>,
}

impl TenantParts {
    fn new(base: &BaseParts, schemas: &SchemaParts) -> Self {
        let BaseParts { core, servers, .. } = base;
        let (wake, returned) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let settings = Settings {
            core: core.clone(),
            servers: servers.clone(),
            workspaces: base.workspaces.clone(),
        };
        let closing = Closing {
            core: core.clone(),
            servers: servers.clone(),
            read_access: base.read_access.clone(),
            settings: settings.clone(),
        };
        let provisioning = Provisioning {
            core: core.clone(),
            servers: servers.clone(),
            placement: base.placement.clone(),
            closing: closing.clone(),
            creations: schemas.creations.clone(),
            read_access: base.read_access.clone(),
            settings: settings.clone(),
            stock: schemas.stock.clone(),
            proofs: schemas.proofs.clone(),
            versions: schemas.versions.clone(),
        };
        Self {
            tenants: Tenants {
                core: core.clone(),
                servers: servers.clone(),
                placement: base.placement.clone(),
                closing,
                provisioning: provisioning.clone(),
                returned: returned.clone(),
            },
            deployments: Deployments {
                core: core.clone(),
                workspaces: base.workspaces.clone(),
                heads: schemas.heads.clone(),
                versions: schemas.versions.clone(),
                wake: wake.clone(),
                returned: returned.clone(),
            },
            rollouts: Rollouts::new(core, servers, &base.placement, &base.repairs, &schemas.builds, &wake),
            drifts: Drifts::new(core, servers, &base.drains, &base.workspaces, &schemas.proofs),
            settings,
            provisioning,
            wake,
            returned,
        }
    }
}

impl Control {
    /// Uses a migrated store. Starts no worker: see `Jobs::start`. Must be called on the runtime that is to do the
    /// work.
    pub fn new(store: Store, tls: ClientTls, settings: ControlSettings) -> Self {
        let base = BaseParts::new(Core::new(store, settings), tls);
        let schemas = SchemaParts::new(&base);
        let fleet = TenantParts::new(&base, &schemas);
        let watches = Watches::new(&base.core);
        let metrics = Metrics::new(&base.core);
        let jobs = jobs(&base, &schemas, &fleet, &watches, &metrics);
        let credentials = Credentials {
            core: base.core.clone(),
            read_access: base.read_access.clone(),
        };
        let accounts = Accounts {
            core: base.core.clone(),
            credentials: credentials.clone(),
        };
        let extensions = Extensions {
            core: base.core.clone(),
            servers: base.servers.clone(),
            drains: base.drains.clone(),
            workspaces: base.workspaces.clone(),
        };
        let parts = Parts {
            registry: Registry {
                core: base.core.clone(),
                servers: base.servers.clone(),
                templates: base.templates.clone(),
            },
            blueprints: Blueprints {
                core: base.core.clone(),
                drains: base.drains.clone(),
                workspaces: base.workspaces.clone(),
            },
            skips: Skips {
                core: base.core.clone(),
                workspaces: base.workspaces.clone(),
                trials: schemas.trials.clone(),
            },
            reverts: reverts(&base, &schemas),
            roles: DeclaredRoles {
                core: base.core.clone(),
                servers: base.servers.clone(),
                accounts: accounts.clone(),
                memberships: base.placement.memberships.clone(),
                drains: base.drains.clone(),
            },
            queries: queries(&base, &extensions),
            extensions,
            users: Users::new(&base.core, &accounts),
            idempotency: Idempotency {
                core: base.core.clone(),
            },
            limits: Limits {
                core: base.core.clone(),
            },
            servers: base.servers,
            workspaces: base.workspaces,
            repairs: base.repairs,
            drains: base.drains,
            core: base.core,
            versions: schemas.versions,
            settings: fleet.settings,
            tenants: fleet.tenants,
            deployments: fleet.deployments,
            drifts: fleet.drifts,
            watches,
            credentials,
            accounts,
            metrics,
            jobs,
        };
        Self { parts: Arc::new(parts) }
    }

    /// Checks that the metadata store accepts connections. Ends within a few seconds.
    pub async fn health(&self) -> Result<()> {
        Ok(self.core.store.ping().await?)
    }
}

fn reverts(base: &BaseParts, schemas: &SchemaParts) -> Reverts {
    Reverts {
        core: base.core.clone(),
        servers: base.servers.clone(),
        placement: base.placement.clone(),
        templates: base.templates.clone(),
        drains: base.drains.clone(),
        workspaces: base.workspaces.clone(),
        builds: schemas.builds.clone(),
        trials: schemas.trials.clone(),
    }
}

fn queries(base: &BaseParts, extensions: &Extensions) -> Queries {
    Queries {
        core: base.core.clone(),
        placement: base.placement.clone(),
        read_access: base.read_access.clone(),
        repairs: base.repairs.clone(),
        drains: base.drains.clone(),
        workspaces: base.workspaces.clone(),
        extensions: extensions.clone(),
    }
}

fn jobs(base: &BaseParts, schemas: &SchemaParts, fleet: &TenantParts, watches: &Watches, metrics: &Metrics) -> Jobs {
    let BaseParts { core, servers, .. } = base;
    let ahead = Ahead {
        core: core.clone(),
        builds: schemas.builds.clone(),
        trials: schemas.trials.clone(),
        heads: schemas.heads.clone(),
        versions: schemas.versions.clone(),
    };
    Jobs {
        core: core.clone(),
        servers: servers.clone(),
        placement: base.placement.clone(),
        read_access: base.read_access.clone(),
        templates: base.templates.clone(),
        workspaces: base.workspaces.clone(),
        stock: schemas.stock.clone(),
        settings: fleet.settings.clone(),
        provisioning: fleet.provisioning.clone(),
        tenants: fleet.tenants.clone(),
        deployments: fleet.deployments.clone(),
        rollouts: fleet.rollouts.clone(),
        watches: watches.clone(),
        drifts: fleet.drifts.clone(),
        metrics: metrics.clone(),
        drain_timer: DrainTimer {
            core: core.clone(),
            servers: servers.clone(),
            drains: base.drains.clone(),
            ahead,
        },
        sweep: Sweep {
            core: core.clone(),
            servers: servers.clone(),
            repairs: base.repairs.clone(),
            read_access: base.read_access.clone(),
            memberships: base.placement.memberships.clone(),
            deployments: fleet.deployments.clone(),
        },
        wake: fleet.wake.clone(),
        returned: fleet.returned.clone(),
    }
}

#[async_trait]
impl ChangeSink for Control {
    async fn session_started(&self, session: SessionStart) -> Result<(), Unavailable> {
        let drains = self.drains.clone();
        let recorded = self
            .core
            .runtime
            .spawn(async move { drains.record_session(session).await });
        joined(recorded.await)
    }

    async fn drain(&self, workspace: WorkspaceId, data: Option<DataStatements>) -> Result<Drained, Unavailable> {
        let drains = self.drains.clone();
        // On the control plane's own runtime: the caller may stop waiting, and its runtime has to serve clients.
        let drained = self
            .core
            .runtime
            .spawn(async move { drains.drain_workspace(workspace, data).await });
        joined(drained.await)
    }

    async fn login_refused(&self, database: RouteKind) -> Result<Repair, Unavailable> {
        let repairs = self.repairs.clone();
        let repaired = self
            .core
            .runtime
            .spawn(async move { repairs.repair_refused(database).await });
        joined(repaired.await)
    }

    async fn prepare(&self, text: WorkspaceText) -> Result<Prepared, Unavailable> {
        let extensions = self.extensions.clone();
        let prepared = self
            .core
            .runtime
            .spawn(async move { extensions.prepare_text(text).await });
        joined(prepared.await)
    }
}

fn joined<T>(result: Result<Result<T>, JoinError>) -> Result<T, Unavailable> {
    match result {
        Ok(done) => done.map_err(|error| Unavailable {
            reason: error.explained(),
        }),
        Err(error) => Err(Unavailable {
            reason: error.to_string(),
        }),
    }
}
