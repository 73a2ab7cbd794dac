# The image of portals and runners: one program, its libc, and whom to trust.
#
#   docker build --tag consecution .
#
# Needs nothing that the classic builder has not got.

# What it is built with, and what it is built on. Any other pair does, if the
# second one's libc is not older than the first one's.
ARG BUILDER_IMAGE=rust:1.95-bookworm
ARG BASE_IMAGE=debian:bookworm-slim

FROM ${BUILDER_IMAGE} AS builder
# The etcd client is generated from its protocol's definitions.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends protobuf-compiler libprotobuf-dev \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /source
COPY Cargo.toml Cargo.lock ./
COPY crates crates
# Of the same workspace, and not built.
COPY bench bench
RUN cargo build --release --locked --package consecution

FROM ${BASE_IMAGE}
# For registries, and for servers that are reached over TLS.
COPY --from=builder /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/
COPY --from=builder /source/target/release/consecution /usr/local/bin/
# A user that the host has not got either. Who mounts an empty volume on the
# folder gets one that belongs to this user.
RUN install --directory --owner=10001 --group=10001 --mode=700 /var/lib/consecution
USER 10001:10001
ENV CONSECUTION_HOME=/var/lib/consecution
STOPSIGNAL SIGTERM
ENTRYPOINT ["consecution"]
CMD ["--help"]
