#!/usr/bin/env bash
# Reproduce the self-supervised training of the shipped encoders: sslfeat-small in two runs, and sslfeat-tiny from the first.
# usage: benchmarks/zoo.sh IMAGES WORK [MINUTES] [MINUTES_TINY] [MINUTES_MORE]       (resumes when repeated)
set -euo pipefail
images=$1 work=$2 minutes=${3:-110} tiny=${4:-15} more=${5:-100}
sslfeat="${PYTHON:-python} -m sslfeat"
layer=${SMALL_LAYER:-layer1:std+layer2:std+layer3:2x2+layer4,whiten=0.25,dim=512}
mkdir -p "$work"

$sslfeat train simclr "$images" --out "$work/small" --backbone resnet10_w40 --image-size 64 --batch-size 256 \
    --minutes "$minutes" --set loss=dcl --set hidden=4 --set keep_color=.5 --set grow=true --resume
$sslfeat export "$work/small" --out "$work/teacher.onnx" --overwrite --image-size 80 --layer "$layer"
$sslfeat train simclr "$images" --out "$work/more" --init "$work/small" --backbone-lr 1 --layer-decay 1 --image-size 64 \
    --batch-size 256 --minutes "$more" --set loss=dcl --set hidden=4 --set keep_color=.5 --resume
$sslfeat export "$work/more" --out "$work/sslfeat-small.onnx" --overwrite --image-size 80 --layer "$layer"
$sslfeat train distill "$images" --out "$work/tiny" --backbone resnet10_w16 --image-size 64 --batch-size 256 \
    --minutes "$tiny" --teacher "$work/teacher.onnx" --resume
$sslfeat export "$work/tiny" --out "$work/sslfeat-tiny.onnx" --overwrite \
    --image-size 80 --layer "${TINY_LAYER:-layer2:std+layer3:2x2+layer4,whiten=0.25,dim=256}"
