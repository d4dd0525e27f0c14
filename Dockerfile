# A worker of Earshot: the clone, its libraries at the versions of constraints.txt, no weights and no recordings.
# docker build -t earshot . && docker run --rm -v /shared/earshot:/earshot-home -e PREFECT_API_URL=http://server:4200/api earshot
FROM python:3.12-slim-bookworm

ENV PYTHONUNBUFFERED=1 \
    PIP_NO_CACHE_DIR=1 \
    DO_NOT_TRACK=1 \
    EARSHOT_HOME=/earshot-home \
    HF_HOME=/earshot-home/huggingface

RUN useradd --create-home --uid 1000 earshot \
    && mkdir /earshot-home \
    && chown earshot /earshot-home

WORKDIR /opt/earshot
COPY . .
RUN pip install -c constraints.txt -e '.[demo,vad,dask]'

# What a run leaves: on several hosts one POSIX folder, mounted by all of them.
VOLUME /earshot-home
USER 1000
CMD ["prefect", "worker", "start", "--pool", "earshot", "--type", "process"]
