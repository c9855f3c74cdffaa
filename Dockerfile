# docker build -t dqlite-py .
#
#   docker run --name n1 --network db -v n1:/data dqlite-py --advertise n1:9001 --insecure
#   docker run --name n2 --network db -v n2:/data dqlite-py --advertise n2:9001 --insecure --join n1:9001
#   docker exec n1 dqlite-py status -s n1:9001
#
# --insecure only on a network of your own: elsewhere --tls-cert, --tls-key and --tls-ca, and for the health check the same
# files in DQLITE_PY_TLS_CERT, DQLITE_PY_TLS_KEY and DQLITE_PY_TLS_CA, and DQLITE_PY_STATUS_SERVERS=n1:9001, a name that the
# certificate has. A stop takes its time: docker stop --time 60.

FROM python:3.13-slim-bookworm AS build
RUN apt-get update && apt-get install --yes --no-install-recommends gcc libc6-dev && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY pyproject.toml setup.py MANIFEST.in README.md LICENSE ./
COPY native native
COPY dqlite_py dqlite_py
RUN python -m pip wheel --disable-pip-version-check --no-cache-dir --wheel-dir /wheels .
RUN python -m venv /opt/dqlite-py
RUN /opt/dqlite-py/bin/pip install --disable-pip-version-check --no-cache-dir --no-index --find-links /wheels dqlite-py

FROM python:3.13-slim-bookworm
RUN useradd --system --uid 900 --home-dir /data --shell /usr/sbin/nologin dqlite && install -d -m 0700 -o dqlite /data
COPY --from=build /opt/dqlite-py /opt/dqlite-py
ENV PATH=/opt/dqlite-py/bin:$PATH
USER dqlite
VOLUME /data
EXPOSE 9001
STOPSIGNAL SIGTERM
ENV DQLITE_PY_STATUS_SERVERS=127.0.0.1:9001
HEALTHCHECK --interval=10s --timeout=10s --start-period=60s CMD dqlite-py status
ENTRYPOINT ["dqlite-py", "node", "--dir", "/data", "--listen", "0.0.0.0:9001"]
