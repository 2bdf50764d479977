#!/usr/bin/env bash
# Train a larger self-supervised teacher on a GPU, and distill the network of the shipped encoder from it (12 minutes); writes to WORK.
# usage: benchmarks/gpu_zoo.sh IMAGES WORK [--cpu]       (--cpu tests all commands, in a minute)
set -euo pipefail
images=$1 work=$2 teacher=7 student=4 backbone=resnet18 device=cuda
if [ "${3:-}" = --cpu ]; then teacher=0.5 student=0.5 backbone=resnet10_w24 device=cpu; fi
sslfeat="${PYTHON:-python} -m sslfeat"
mkdir -p "$work"

$sslfeat train simclr "$images" --out "$work/teacher" --backbone "$backbone" --image-size 64 --provider "$device" \
    --minutes "$teacher" --set loss=dcl --set hidden=4 --set keep_color=.5 --set grow=true --resume
$sslfeat export "$work/teacher" --out "$work/teacher.onnx" --overwrite
$sslfeat train distill "$images" --out "$work/small" --backbone resnet10_w40 --image-size 64 --provider "$device" \
    --minutes "$student" --teacher "$work/teacher.onnx" --resume
$sslfeat export "$work/small" --out "$work/small.onnx" --overwrite \
    --layer layer1:std+layer2:std+layer3:2x2+layer4,whiten=0.25,dim=512
ls -l "$work"/*.onnx
