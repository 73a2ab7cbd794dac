# The only commands; what runs in continuous integration calls them too.
# Each one gets what it needs first: see scripts/setup.

.PHONY: help demo demo-network test test-vm test-asan test-programs test-page check fuzz bench
.DEFAULT_GOAL := help

help: ## show this
	@sed -n 's/^\([a-z-]*\): ## /  make \1\t/p' $(firstword $(MAKEFILE_LIST)) | expand -t 22

demo: ## build, get a busybox image, run examples/words/chain.yaml
	@scripts/setup demo
	@scripts/demo

demo-network: ## the same over NATS and etcd: two runners, a portal, all on free ports
	@scripts/setup demo-network
	@scripts/demo-network

test: ## run all tests
	@scripts/setup test
	@scripts/test

test-vm: ## the sandbox's promises on Debian's kernel, with cgroups of version 2, under qemu
	@scripts/setup test-vm
	@scripts/test-vm

test-asan: ## the unit tests of the sandbox with AddressSanitizer
	@scripts/setup test-asan
	@scripts/test-asan

test-programs: ## real programs as links, beside Docker where it answers; ARGS='--only jq,gpg'
	@scripts/setup test-programs
	cargo build --locked --package consecution
	@python3 programs/run.py $(ARGS)

test-page: ## the page in a browser; what it looked like is in target/page
	@scripts/setup test-page
	@scripts/test-page

# The documentation's targets one by one, examples among them: with those, dependencies
# have the features that clippy has checked them with, and are not checked again.
check: ## formatting, lints, documentation, packages
	@scripts/setup check
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --locked -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --locked \
		--lib --examples --bin sandbox-zygote --bin bench
	cargo package --no-verify --allow-dirty --locked --offline --quiet

fuzz: ## fuzz what reads strangers' input, FUZZ_SECONDS=180 each, FUZZ_TARGETS= all
	@scripts/setup fuzz
	@scripts/fuzz

bench: ## measure side by side with other programs; ONLY=pipes: one group of it
	@scripts/setup bench
	cargo build --release --locked --package consecution --package bench
	@"$${CARGO_TARGET_DIR:-target}/release/bench" $(if $(ONLY),--only $(ONLY))
