# The demo on a CPU: docker build -t loda . && docker run --rm loda
# The image is some GB smaller with PyTorch's index of CPU builds: --build-arg PIP_EXTRA_INDEX_URL=...
FROM python:3.11-slim
ARG PIP_EXTRA_INDEX_URL
WORKDIR /loda
COPY . .
RUN pip install --no-cache-dir -c constraints.txt -e '.[lab]'
CMD ["python", "-m", "scripts", "table", "table1", "--profile", "toy", "--processes", "2"]
