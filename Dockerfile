# For CPUs; Dockerfile.cuda is for NVIDIA GPUs. docs/platforms.md has the commands.
FROM python:3.12-slim
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
WORKDIR /app
COPY . .
RUN pip install --no-cache-dir --index-url "$TORCH_INDEX" 'torch>=2.6' 'torchvision>=0.21' \
    && pip install --no-cache-dir -e '.[teacher,share,export,speed,tensorboard]'
ENV HOME=/tmp
USER 1000
CMD ["python", "-m", "train", "--help"]
