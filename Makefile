# Two commands: `make run` and `make test`. Each installs what it needs.
.PHONY: run install test bench docs lock clean

run: install
	@exec .venv/bin/onbook serve $(ARGS)

install:
	@sh scripts/install.sh run

test:
	@sh scripts/install.sh dev
	@sh scripts/test.sh $(ARGS)

bench:
	@sh scripts/install.sh dev
	@.venv/bin/python -m benchmarks $(ARGS)

# Writes the generated pages of docs/reference from the code.
docs:
	@sh scripts/install.sh dev
	@.venv/bin/python scripts/reference.py

# Resolves requirements/*.in again. The lock files name no index.
lock:
	@sh scripts/install.sh dev
	@for set in base dev; do \
	  .venv/bin/uv pip compile --quiet --universal --python-version 3.11 --upgrade --generate-hashes \
	    --no-emit-index-url --no-annotate --custom-compile-command "make lock" \
	    requirements/$$set.in -o requirements/$$set.lock; \
	done
	@for set in model postgres; do \
	  .venv/bin/uv pip compile --quiet --universal --python-version 3.11 --upgrade --generate-hashes \
	    --no-emit-index-url --no-annotate --no-deps --custom-compile-command "make lock" \
	    requirements/$$set.in -o requirements/$$set.lock; \
	done

clean:
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .hypothesis
