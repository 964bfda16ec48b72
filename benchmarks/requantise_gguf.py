"""Writes a GGUF model with its Q4_1 blocks in another form; its other tensors too where that form is F32.

Usage: requantise_gguf.py MODEL F32|Q4_0|Q4_1 OUTPUT
"""

from __future__ import annotations

import sys
from pathlib import Path

from gguf import GGMLQuantizationType, GGUFReader, GGUFValueType, GGUFWriter
from gguf.quants import dequantize, quantize

_WRITTEN_ANEW = ("GGUF.", "general.architecture", "general.file_type")


def main() -> None:
    source, kind, path = GGUFReader(sys.argv[1]), GGMLQuantizationType[sys.argv[2]], sys.argv[3]
    writer = GGUFWriter(f"{path}.part", source.fields["general.architecture"].contents())
    for field in source.fields.values():
        if not field.name.startswith(_WRITTEN_ANEW):
            inner = field.types[-1] if field.types[0] == GGUFValueType.ARRAY else None
            writer.add_key_value(field.name, field.contents(), field.types[0], inner)
    for tensor in source.tensors:
        old = tensor.tensor_type
        new = kind if old == GGMLQuantizationType.Q4_1 or kind == GGMLQuantizationType.F32 else old
        data = tensor.data if new == old else quantize(dequantize(tensor.data, old), new)
        writer.add_tensor(tensor.name, data, raw_dtype=new)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    Path(f"{path}.part").replace(path)


if __name__ == "__main__":
    main()
