// SHA-256 by OpenSSL.
#pragma once

#include <cstddef>
#include <span>
#include <string>

struct evp_md_ctx_st;

namespace ctxrt::core {

class Sha256 {
 public:
  Sha256();
  ~Sha256();
  Sha256(const Sha256&) = delete;
  Sha256& operator=(const Sha256&) = delete;

  void update(std::span<const std::byte> bytes);
  // In hexadecimal; nothing is added afterwards.
  std::string digest();

 private:
  evp_md_ctx_st* context_;
};

// Of one piece, in hexadecimal.
std::string sha256(std::span<const std::byte> bytes);

}  // namespace ctxrt::core
