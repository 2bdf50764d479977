"""Extract the image encoder of a multimodal third-party model, such as CLIP."""

from __future__ import annotations

import onnx

from sslfeat.errors import InputError


def image_part(model: onnx.ModelProto, output: str | None) -> onnx.ModelProto:
    """``model`` with one input, if one of several is an image (four axes) and some output depends on it alone.

    Otherwise unchanged. ``output``: the requested output, if any. Raises InputError if it also depends on other inputs.
    """
    weights = {tensor.name for tensor in model.graph.initializer}
    ports = [port for port in model.graph.input if port.name not in weights]
    images = [port for port in ports if len(port.type.tensor_type.shape.dim) == 4]
    if len(ports) < 2 or len(images) != 1:
        return model
    makers = {name: number for number, node in enumerate(model.graph.node) for name in node.output if name}
    inputs, image = {port.name for port in ports}, images[0].name
    needs = {port.name: _needs(model, makers, port.name) for port in model.graph.output}
    alone = [name for name, (_, fed) in needs.items() if fed & inputs == {image}]
    if output is not None and output in needs and output not in alone:
        others = ", ".join(sorted(needs[output][1] & inputs - {image}))
        raise InputError(f"output {output!r} also depends on other inputs than the image: {others}")
    if not alone:
        return model
    numbers = set[int]().union(*(needs[name][0] for name in alone))
    part = onnx.ModelProto()
    part.CopyFrom(model)
    graph = part.graph
    nodes = [node for number, node in enumerate(model.graph.node) if number in numbers]
    used = {name for node in nodes for name in node.input}
    kept = {
        "node": nodes,
        "input": [port for port in model.graph.input if port.name == image or port.name in weights & used],
        "output": [port for port in model.graph.output if port.name in alone],
        "initializer": [tensor for tensor in model.graph.initializer if tensor.name in used],
        "value_info": [],
    }
    for name, values in kept.items():
        graph.ClearField(name)
        getattr(graph, name).extend(values)
    return part


def _needs(model: onnx.ModelProto, makers: dict[str, int], name: str) -> tuple[set[int], set[str]]:
    """Indices of the nodes that compute ``name``, and all names of their inputs."""
    numbers, names, left = set[int](), {name}, [name]
    while left:
        number = makers.get(left.pop())
        if number is None or number in numbers:
            continue
        numbers.add(number)
        fed = set(model.graph.node[number].input) - names
        names |= fed
        left += fed
    return numbers, names
