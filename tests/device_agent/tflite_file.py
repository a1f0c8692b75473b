"""A TFLite file made with nothing but the flatbuffer schema, for tests."""

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema


def tflite_add(width: int = 8) -> bytes:
    """A model of one operator: x + 1, (1, width) → (1, width)."""
    model = schema.ModelT()
    model.version = 3
    constant = schema.BufferT()
    constant.data = np.frombuffer(np.ones((1, width), np.float32).tobytes(), np.uint8)
    model.buffers = [schema.BufferT(), constant]
    code = schema.OperatorCodeT()
    code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.ADD
    code.version = 1
    model.operatorCodes = [code]
    graph = schema.SubGraphT()
    graph.tensors = [_tensor(name, width, buffer) for name, buffer in (("x", 0), ("one", 1), ("y", 0))]
    graph.inputs, graph.outputs = [0], [2]
    operator = schema.OperatorT()
    operator.opcodeIndex = 0
    operator.inputs, operator.outputs = [0, 1], [2]
    operator.builtinOptionsType = schema.BuiltinOptions.AddOptions
    operator.builtinOptions = schema.AddOptionsT()
    graph.operators = [operator]
    model.subgraphs = [graph]
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def _tensor(name: str, width: int, buffer: int) -> schema.TensorT:
    tensor = schema.TensorT()
    tensor.name = name.encode()
    tensor.shape = [1, width]
    tensor.type = schema.TensorType.FLOAT32
    tensor.buffer = buffer
    return tensor
