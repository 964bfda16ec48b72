// The part of zip archives that npz files use: stored and deflated entries, below 4 GiB.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "files.h"
#include "result.h"

namespace ctxrt::core {

struct ZipEntry {
  std::string name;
  std::uint32_t crc32 = 0;
  std::size_t packed_bytes = 0, bytes = 0;
  bool deflated = false;
  std::size_t local_header = 0;  // where it starts in the archive
};

// The entries of an archive, which begins with the first; the error is of the kind `input`.
Result<std::vector<ZipEntry>> list_zip(Bytes archive);

// An entry, checked against its CRC; its name before the data is that of the directory.
Result<std::vector<std::byte>> read_zip(Bytes archive, const ZipEntry& entry);

// An archive of stored entries.
std::vector<std::byte> make_zip(const std::vector<std::pair<std::string, std::vector<std::byte>>>& entries);

}  // namespace ctxrt::core
