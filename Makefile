# The commands for developers; `make` without a target lists them.
.DEFAULT_GOAL := help
SHELL := /bin/sh
# A cargo that rustup installed may be missing from PATH.
export PATH := $(PATH):$(HOME)/.cargo/bin
TARGET := $(or $(CARGO_TARGET_DIR),target)
BINARIES := -p tdb-server -p tdb-cli

.PHONY: help
help: ## List what make can do
	@sed -n 's/^\([a-z-]*\):.*## /  make \1|/p' $(MAKEFILE_LIST) | awk -F'|' '{ printf "%-16s %s\n", $$1, $$2 }'

.PHONY: build
build: ## Build tenantsdb and tdb
	@scripts/bootstrap dev
	cargo build --release $(BINARIES)

.PHONY: dev
dev: build ## Install what is missing, build, start a development instance (ARGS="--postgres-port 0" …)
	@exec "$(TARGET)/release/tenantsdb" dev $(ARGS)

.PHONY: demo
demo: build ## Run the steps of the README on a temporary instance
	@PATH="$(abspath $(TARGET))/release:$$PATH" scripts/demo

# Not nextest: the tests of a binary share an instance, and nextest would start one for each test.
.PHONY: test
test: ## Run every test (real PostgreSQL clusters, real drivers), JOBS test binaries at a time
	@scripts/bootstrap test
	tests/run

.PHONY: test-api
test-api: ## Test a new instance with generated requests, valid and invalid (schemathesis, which it installs into the target directory)
	@scripts/bootstrap test
	cargo build $(BINARIES)
	tests/schemathesis

.PHONY: test-clients
test-clients: ## Test drivers, ORMs and tools of many languages; prints a table client × check (ARGS="jdbc django" …)
	@scripts/bootstrap clients
	cargo build $(BINARIES)
	tests/clients/run --binaries "$(TARGET)/debug" --into "$(TARGET)/clients" $(ARGS)

.PHONY: test-versions
test-versions: ## Test with PostgreSQL 13 to 18, whose binaries it downloads from the npm registry
	@scripts/bootstrap test
	cargo build $(BINARIES)
	tests/versions.sh

.PHONY: test-containers
test-containers: ## Run the commands of docker-compose.yml in minimal Debian roots, without a Docker engine; as root
	@scripts/bootstrap test
	tests/containers.sh

.PHONY: test-bootstrap
test-bootstrap: ## Run scripts/bootstrap in bare Debian roots with misleading packages; as root (ARGS=build builds pg_query there)
	tests/bootstrap.sh $(ARGS)

.PHONY: lint
lint: ## Check formatting, and run clippy
	@scripts/bootstrap dev
	@cargo fmt --version >/dev/null 2>&1 && cargo clippy --version >/dev/null 2>&1 || rustup component add rustfmt clippy
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- -D warnings

.PHONY: audit
audit: ## Check licences, sources, bans and known vulnerabilities of the dependencies (needs cargo-deny)
	@cargo deny --version >/dev/null 2>&1 || { echo "cargo-deny is missing: cargo install cargo-deny --locked" >&2; exit 1; }
	cargo deny check bans licenses sources
	@scripts/advisories

.PHONY: fuzz
fuzz: ## Fuzz one target for TIME seconds, by default 60 (ARGS=flow; needs cargo-fuzz and a nightly compiler)
	@cargo fuzz --version >/dev/null 2>&1 || { echo "cargo-fuzz is missing: cargo install cargo-fuzz --locked" >&2; exit 1; }
	cargo +nightly fuzz run $(if $(filter splitter,$(ARGS)),--features splitter) $(or $(ARGS),flow) -- -max_total_time=$(or $(TIME),60)

.PHONY: soak
soak: ## Compare the proxy with PostgreSQL, message by message, for TIME seconds, by default 600 (SEED=number)
	@scripts/bootstrap test
	cargo build $(BINARIES)
	TDB_SOAK=$(or $(TIME),600) TDB_TEST_SEED=$(or $(SEED),$$(date +%s)) cargo test -p tdb-tests --test differential -- --nocapture

.PHONY: bench
bench: ## Compare with PgBouncer and HAProxy, which it installs with their services disabled (ARGS="relay" …)
	@scripts/bootstrap bench
	cargo build --release $(BINARIES)
ifdef ARGS
	cargo run --release -p tdb-benches -- $(ARGS)
else
	cargo run --release -p tdb-benches -- relay
	cargo run --release -p tdb-benches -- tenants
	cargo run --release -p tdb-benches -- deploy
	cargo run --release -p tdb-benches -- capture
endif
