.PHONY: help setup demo demo-chat test check bench docs clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /make \1\t/' | expand -t 16

setup: ## make .venv and install the project into it, editable
	@scripts/setup

demo: ## export a real model, prove it, and run texts of 8 to 3,000 tokens through it
	@scripts/demo

demo-chat: ## export a small language model and talk with it, in a KV cache that grows with the talk
	@scripts/demo-chat

test: ## everything that must be green: the checks, then the tests
	@scripts/test

check: ## style, types, import rules, generated schemas, sizes
	@scripts/check

bench: ## the benchmarks, one after the other
	@scripts/bench

docs: ## build the documentation into site/
	@scripts/docs

clean: ## remove .venv and everything that was built
	@scripts/clean
