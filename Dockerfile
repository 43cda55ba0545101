# syntax=docker/dockerfile:1
# One image per daemon from shared layers: docker build --target ldap|core|all .
# The first group can stand in for the core's own outpost images: entry point /<type> without arguments,
# `/<type> healthcheck` for probes, user id 1000, a writable $TMPDIR for the health socket.

FROM python:3.12-slim AS build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python -m venv /opt/outposts
WORKDIR /src
COPY requirements.lock ./
# only what running needs: the part above the marker line
RUN sed '/^# --- tests and checks only ---/,$d' requirements.lock > run.lock \
    && /opt/outposts/bin/pip install --require-hashes -r run.lock
COPY pyproject.toml README.md LICENSE ./
COPY common common
COPY outposts outposts
COPY core core
RUN /opt/outposts/bin/pip install --no-deps --no-build-isolation . \
    && for type in ldap radius proxy; do \
         printf '#!/bin/sh\nexec /opt/outposts/bin/outposts %s "$@"\n' "$type" > "/$type" && chmod 0755 "/$type"; \
       done

FROM python:3.12-slim AS base
ARG GIT_BUILD_HASH=""
ENV GIT_BUILD_HASH=$GIT_BUILD_HASH \
    PATH=/opt/outposts/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    TMPDIR=/dev/shm
LABEL org.opencontainers.image.title="Outposts" \
      org.opencontainers.image.licenses="MIT"
COPY --from=build /opt/outposts /opt/outposts
USER 1000
STOPSIGNAL SIGTERM

FROM base AS ldap
COPY --from=build /ldap /ldap
EXPOSE 3389 6636 9300
HEALTHCHECK --interval=5s --retries=20 --start-period=3s CMD ["/ldap", "healthcheck"]
ENTRYPOINT ["/ldap"]

FROM base AS radius
COPY --from=build /radius /radius
EXPOSE 1812/udp 9300
HEALTHCHECK --interval=5s --retries=20 --start-period=3s CMD ["/radius", "healthcheck"]
ENTRYPOINT ["/radius"]

FROM base AS proxy
COPY --from=build /proxy /proxy
EXPOSE 9000 9443 9300
HEALTHCHECK --interval=5s --retries=20 --start-period=3s CMD ["/proxy", "healthcheck"]
ENTRYPOINT ["/proxy"]

FROM base AS core
USER 0
RUN install -d -o 1000 -g 1000 -m 0700 /data
USER 1000
VOLUME /data
EXPOSE 9080
ENV OUTPOSTS_CORE__LISTEN=[::]:9080
ENTRYPOINT ["outposts", "core", "--data", "/data"]

FROM base AS all
COPY --from=build /ldap /radius /proxy /
ENTRYPOINT ["outposts"]
