.DEFAULT_GOAL := help
.PHONY: help setup demo bench soak lint test test-unit test-ovs test-cluster test-conformance test-long test-kernel manifests image test-image bench-scale bench-services bench-shaping clean

KERNEL_PACKAGES := qemu-system-x86 linux-image-amd64 kmod busybox-static file e2fsprogs ipvsadm

help: ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

setup: ## Debian packages, .venv, the CNI executable; starts no service
	@scripts/setup

demo: setup ## a three-node cluster on this machine, and who reaches whom
	@scripts/demo

bench: setup ## speed beside others: a table, and one JSON line
	@scripts/bench

soak: setup ## random operations and outages, judged after each; SECONDS=60, SEED= any
	@scripts/soak --seconds $(or $(SECONDS),60) $(if $(SEED),--seed $(SEED))

lint: setup ## ruff, mypy, import-linter
	@scripts/lint

test: setup ## every tier that needs no virtual machine
	@scripts/test unit ovs cluster conformance

test-unit test-ovs test-cluster test-conformance: test-%: setup ## one tier
	@scripts/test $*

test-long: ## the outages of the cluster tier at their full length, 60 s each, on both datapaths
	@scripts/setup $(KERNEL_PACKAGES)
	@scripts/test-long

test-kernel: ## the tests marked "kernel" on the kernel datapath, in an emulated virtual machine
	@scripts/setup $(KERNEL_PACKAGES)
	@scripts/test-kernel

manifests: setup ## deploy/kustomize, rendered from deploy/chart
	@scripts/manifests

image: ## the OCI archives build/k8s-ovs.tar and build/k8s-ovs-openvswitch.tar, without a registry
	@scripts/setup mmdebstrap buildah
	@mkdir -p build
	@scripts/image build

test-image: ## builds the image, and lets containerd run agent and controller from it on a node of the lab
	@scripts/setup mmdebstrap buildah
	@scripts/test-image

bench-scale: setup ## ten thousand namespaces, five thousand nodes: simulated, measured
	@scripts/bench-scale

bench-services: setup ## connections through a Service, the cost of one change among 10,000
	@scripts/bench-services

bench-shaping: ## how near to its bandwidth limit a pod gets, on both datapaths
	@scripts/setup $(KERNEL_PACKAGES)
	@scripts/bench-shaping

clean: ## what setup and the tests left in this tree
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .import_linter_cache *.egg-info
	$(MAKE) --silent --directory cni/shim clean
