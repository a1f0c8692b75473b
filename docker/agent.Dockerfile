# The device agent and its model runtimes, for boards that run containers: linux/amd64, linux/arm64, linux/arm/v7.
# Build it from the root of the repository. BASE is Debian 12 or newer, 12 for arm/v7; it may be built locally.
ARG BASE=debian:bookworm-slim

FROM ${BASE} AS runtimes
COPY docker/runtimes /usr/local/sbin/runtimes
RUN apt-get update \
    && apt-get install --yes --no-install-recommends python3-pip \
    && python3 -m pip install --break-system-packages --no-cache-dir --no-deps --only-binary=:all: $(runtimes wheels)

FROM ${BASE}
ARG USER_ID=990
COPY --from=runtimes /usr/local /usr/local
# No program gets more rights than who starts it: the last line takes set-user-id bits away.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends python3 $(runtimes packages) \
    && rm -rf /var/lib/apt/lists/* /var/cache/apt/* \
    && useradd --system --user-group --uid ${USER_ID} --no-create-home --home-dir /var/lib/device-agent device-agent \
    && install --directory --owner=device-agent --group=device-agent /var/lib/device-agent /run/device-agent \
    && find / -xdev -type f -perm /6000 -exec chmod a-s {} +
COPY docker/device-agent /usr/local/bin/device-agent
COPY device_agent /opt/device-agent/current/device_agent
RUN python3 -m compileall -q /opt/device-agent/current

USER device-agent
WORKDIR /
VOLUME /var/lib/device-agent
HEALTHCHECK --interval=60s --timeout=20s --start-period=30s CMD ["device-agent", "status"]
ENTRYPOINT ["device-agent"]
CMD ["launch"]
