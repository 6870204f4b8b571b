# A job's image with aura-run in it. AGENT is the image that ../Dockerfile makes; BASE must have its Python in the same
# place, which is so if it is the base of AGENT, or was built from that.
#   docker build -f deploy/job.Dockerfile --build-arg AGENT=aura-agent:0.1.0 --build-arg BASE=python:3.12-slim -t job .
ARG AGENT=aura-agent:0.1.0
ARG BASE=python:3.12-slim

FROM ${AGENT} AS agent

FROM ${BASE}
COPY --from=agent /opt/aura-agent /opt/aura-agent
# Yours: COPY report.sh /usr/local/bin/
USER 10001:10001
ENTRYPOINT ["/opt/aura-agent/bin/aura-run"]
CMD ["-j", "nightly-report", "--", "/bin/true"]
