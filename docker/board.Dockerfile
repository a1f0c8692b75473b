# A board to try fleets on: the agent behind an SSH server, both as the same unprivileged user.
# AGENT is the image that agent.Dockerfile makes. There are no keys in here: `make-keys` makes them at the first start.
ARG AGENT=edge-pipeline-agent
FROM ${AGENT}
ARG BOARDS="board1 board2 board3"
USER root
RUN apt-get update \
    && apt-get install --yes --no-install-recommends openssh-server \
    && rm -rf /var/lib/apt/lists/* /var/cache/apt/* /etc/ssh/ssh_host_* \
    && usermod --shell /bin/bash device-agent \
    && for each in "" host ${BOARDS}; do install --directory --owner=device-agent --group=device-agent "/keys/$each"; done \
    && find / -xdev -type f -perm /6000 -exec chmod a-s {} +
COPY docker/board/sshd_config /etc/board/sshd_config
COPY docker/board/board docker/board/make-keys /usr/local/bin/

USER device-agent
HEALTHCHECK --interval=60s --timeout=20s --start-period=30s CMD ["device-agent", "status"]
ENTRYPOINT ["board"]
CMD []
