# A small image of aura-agent: the daemon as it is (a sidecar, a host's agent), or the source of aura-run for a job's own
# image, see deploy/job.Dockerfile.
# The base is an argument: any image with Python 3.11 or newer and its venv module.
#   docker build --build-arg BASE=python:3.12-slim -t aura-agent:0.1.0 .
ARG BASE=python:3.12-slim

FROM ${BASE} AS build
WORKDIR /src
# Dependencies first: they change rarely, so this layer is mostly there already. Versions and hashes are pinned.
COPY requirements/runtime.txt requirements/build.txt requirements/
RUN python3 -m venv /build \
 && /build/bin/python -m pip install --no-cache-dir --require-hashes -r requirements/build.txt
# Without pip: nothing is ever installed into the finished image.
RUN python3 -m venv --without-pip /opt/aura-agent \
 && /build/bin/python -m pip --python /opt/aura-agent/bin/python install --no-cache-dir --require-hashes \
    -r requirements/runtime.txt
COPY pyproject.toml README.md LICENSE ./
COPY aura_agent aura_agent
COPY bin bin
COPY completion completion
COPY docs/man docs/man
RUN /build/bin/python -m hatchling build -t wheel -d /dist \
 && /build/bin/python -m pip --python /opt/aura-agent/bin/python install --no-cache-dir --no-deps --no-index /dist/*.whl
# A job's PYTHONHOME and PYTHONPATH are the job's alone: installers write aura-run's first line without this.
RUN sed -i '1s/python[0-9.]*$/& -I/' /opt/aura-agent/bin/aura-run /opt/aura-agent/bin/aura-agent

FROM ${BASE}
COPY --from=build /opt/aura-agent /opt/aura-agent
# The store is a directory of the agent's own below the mounted volume: whoever mounts one may own it differently, and
# the agent doesn't touch a store of somebody else.
ENV PATH=/opt/aura-agent/bin:$PATH \
    AURA_STATE_DIR=/var/lib/aura-agent/store \
    AURA_SOCKET=/run/aura-agent/agent.sock
# Made here so that it also works without volumes; the root file system may be read-only. A number, not a name: there
# is no entry in passwd to go with it, and Kubernetes can tell that it isn't root.
RUN install -d -o 65532 -g 65532 -m 0700 /var/lib/aura-agent && install -d -o 65532 -g 65532 -m 0755 /run/aura-agent
VOLUME ["/var/lib/aura-agent", "/run/aura-agent"]
USER 65532:65532
STOPSIGNAL SIGTERM
ENTRYPOINT ["aura-agent"]
CMD ["run"]
