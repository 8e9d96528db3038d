"""Unpack the weights of a GGUF file to float32, so that llama.cpp computes with the numbers that the others have."""

from pathlib import Path

from gguf import GGMLQuantizationType, GGUFReader, GGUFValueType, GGUFWriter, LlamaFileType
from gguf.quants import dequantize

_WRITTEN_BY_THE_WRITER = ("GGUF.", "general.architecture", "general.file_type")


def convert(source: Path) -> Path:
    """Write ``NAME.float32.gguf`` beside the file, unless it is there; return its path."""
    target = source.with_suffix(".float32.gguf")
    if target.exists():
        return target
    reader = GGUFReader(source)
    partial = target.with_suffix(".partial")
    writer = GGUFWriter(partial, arch=reader.fields["general.architecture"].contents())
    for name, field in reader.fields.items():
        if not name.startswith(_WRITTEN_BY_THE_WRITER):
            inner = field.types[-1] if field.types[0] == GGUFValueType.ARRAY else None
            writer.add_key_value(name, field.contents(), field.types[0], sub_type=inner)
    writer.add_file_type(LlamaFileType.ALL_F32)
    for tensor in reader.tensors:
        weights = dequantize(tensor.data, tensor.tensor_type).reshape(tensor.shape[::-1])
        writer.add_tensor(tensor.name, weights, raw_dtype=GGMLQuantizationType.F32)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return partial.rename(target)
