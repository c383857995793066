SHELL       := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

# The modules with Go code in them: the library, and those beside it that have a go.mod of their own. tools has none; its
# go.mod is written by `go get -tool`, for a tidy one would want all that the linter's own tests need.
MODULES := . $(filter-out tools,$(patsubst %/go.mod,%,$(wildcard */go.mod)))
# Runs a command in each module, and stops at the first that fails.
each = for m in $(MODULES); do echo "== $$m: $(1)"; (cd "$$m" && $(1)); done

# The linter is built from tools/go.mod, so that its requirements are not the library's.
LINT := go tool -modfile=$(CURDIR)/tools/go.mod golangci-lint

FUZZTIME ?= 10s
SEEDS    ?= 500
SEED     ?= 1

# How many brokers servers-up starts: 1 or 3.
BROKERS ?= 1

# What takes too long for every change. More goes here, one target a word.
NIGHTLY := race fuzz cover bench-breaker bench-consumer bench-producer spool-kills redrive-kills test-real-cluster sim-mutants

.PHONY: help build test race lint fmt tidy diff fuzz cover bench-breaker bench-consumer bench-producer bench-dlq bench-insert quickstart \
	spool-kills redrive-kills servers-up servers-down test-real fuzz-real test-real-cluster check nightly

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-17s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

build: ## Build every package of every module
	@$(call each,go build ./...)

test: ## Run the tests of every module
	@$(call each,go test ./...)

# Few seeds: the detector itself may die in a synctest bubble (golang/go#78156); sim runs more without it.
race: ## Run the tests under the race detector, in random order
	@$(call each,SEEDS=15 go test -race -shuffle=on -timeout 15m ./...)

lint: ## Run the linters (the first time, they are built: a few minutes)
	@$(call each,$(LINT) run)

fmt: ## Format the code
	@$(call each,$(LINT) fmt)

tidy: ## Tidy every go.mod
	@$(call each,go mod tidy)

diff: ## Show what fmt and tidy would change, and fail if that is anything
	@$(call each,$(LINT) fmt --diff && go mod tidy -diff)

fuzz: ## Run every fuzz test for FUZZTIME (10s)
	@grep -ro --include='*_test.go' '^func Fuzz[A-Za-z0-9_]*' . | sed 's|/[^/]*:func | |' | sort | while read -r dir name; do \
		echo "== $$dir: $$name"; go test -C "$$dir" -run '^$$' -fuzz "^$$name\$$" -fuzztime $(FUZZTIME) .; \
	done

# What a test that is its own report prints, without go test's words about it.
report := grep -v -e '^=== ' -e '^ *--- PASS' -e '^PASS$$' -e '^ok  '

.PHONY: sim sim-replay sim-mutants bench-pipeline
sim: ## Run SEEDS (500) random simulations of a pipeline among failures, from seed SEED (1) on
	@SEEDS=$(SEEDS) SEED=$(SEED) go test -count=1 -v -timeout 0 -run '^TestSimulation$$' ./pipeline | $(report)

sim-replay: ## Run seed SEED up to 500 times, and say how often it fails: a seed fixes the faults, not who is first
	@SEED=$(SEED) REPLAY=500 go test -count=1 -v -timeout 0 -run '^TestSimulation$$' ./pipeline | $(report)

sim-mutants: ## Break each of the library's rules on purpose: the simulation must notice within 200 seeds
	@go test -count=1 -v -timeout 0 -tags mutants -run '^TestMutants$$' ./pipeline | $(report)

spool-kills: ## Kill a process 200 times that fills and drains a spool, and look for what it had acknowledged
	@HOLDFAST_SPOOL_KILLS=200 go test -count=1 -timeout 0 -run '^TestSpoolSurvivesKill$$' ./dlq

cover: ## Say how much of the library the tests run, line by line in coverage.html
	@go test -coverpkg=./... -coverprofile=coverage.out ./...
	@go tool cover -html=coverage.out -o coverage.html
	@go tool cover -func=coverage.out | tail -n 1

bench-breaker: ## Compare the breaker with others', and print the ratios
	@cd bench && go run ./breaker

bench-consumer: ## Compare the consumer with others, and print the ratios (3 minutes)
	@cd bench && go run ./consumer

bench-producer: ## Compare the producer with others, and print the ratios (2 minutes)
	@cd bench && go run ./producer

bench-dlq: ## Measure how fast dead letters are written, to a topic and to the disk, and taken home
	@cd bench && go run ./dlq

bench-insert: ## Compare inserting with the driver's own ways, on servers-up's ClickHouse, and print the ratios
	@[[ -n $${HOLDFAST_CLICKHOUSE:-} ]] || eval "$$(scripts/servers status | grep ^export)"; \
	: "$${HOLDFAST_CLICKHOUSE:?make servers-up first}"; cd bench && go run ./insert

bench-pipeline: ## Compare a whole pipeline with others'; into ClickHouse, too, when servers-up has started one (20 minutes)
	@[[ -n $${HOLDFAST_CLICKHOUSE:-} ]] || eval "$$(scripts/servers status | grep ^export)"; \
	cd bench && go run ./pipeline

quickstart: ## Run the smallest whole program: Kafka and ClickHouse in process, no setup
	@go run ./examples/quickstart

servers-up: ## Start Apache Kafka (BROKERS=1 or 3), ClickHouse and ZooKeeper on this machine
	@scripts/servers up -n $(BROKERS) kafka clickhouse zookeeper

servers-down: ## End them and delete their data
	@scripts/servers down

test-real: ## Run the tests that want servers-up's servers: they are killed and stopped in mid-flow (4 minutes)
	@[[ -n $${HOLDFAST_KAFKA:-} ]] || eval "$$(scripts/servers status | grep ^export)"; \
	: "$${HOLDFAST_KAFKA:?make servers-up first}" "$${HOLDFAST_CLICKHOUSE:?make servers-up first}"; \
	go test -count=1 -v -timeout 15m ./internal/real; \
	go test -count=1 -run 'OnKafka$$' ./dlq; \
	go test -count=1 -run '^TestSequenceEnds$$' ./kafkax; \
	go test -count=1 -run '^FuzzRows$$' ./clickhousex

redrive-kills: ## Kill the tool in the middle of a redrive of 100,000 letters, and look for every message
	@scripts/servers up >/dev/null
	@verdict=0; eval "$$(scripts/servers status | grep ^export)"; \
	LETTERS=100000 go test -count=1 -v -timeout 10m -run '^TestKilledRedrive$$' ./internal/real || verdict=$$?; \
	scripts/servers down; exit $$verdict

fuzz-real: ## Write random values of all types into ClickHouse for FUZZTIME (10s), and read them back
	@[[ -n $${HOLDFAST_CLICKHOUSE:-} ]] || eval "$$(scripts/servers status | grep ^export)"; \
	: "$${HOLDFAST_CLICKHOUSE:?make servers-up first}"; \
	go test -run '^$$' -fuzz '^FuzzRows$$' -fuzztime $(FUZZTIME) ./clickhousex

test-real-cluster: ## Run both on three brokers
	@scripts/servers down
	@scripts/servers up -n 3 kafka clickhouse zookeeper >/dev/null
	@verdict=0; HOLDFAST_CLICKHOUSE_KILLS=20 $(MAKE) test-real fuzz-real FUZZTIME=$(FUZZTIME) || verdict=$$?; scripts/servers down; exit $$verdict

check: ## Everything that CI checks (under 20 minutes)
	@bash .ci/run

nightly: FUZZTIME = 10m
nightly: $(NIGHTLY) ## What takes too long for every change: race, long fuzzing, coverage, three brokers
