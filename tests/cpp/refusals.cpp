// Opens bundles whose paths come on standard input, one a line, and tells of each the refusal's code, or "sound".
#include <iostream>
#include <string>

#include "bundle.h"

int main() {
  for (std::string path; std::getline(std::cin, path);) {
    const auto bundle = ctxrt::core::open_bundle(path);
    std::cout << (bundle ? "sound" : bundle.error().code) << std::endl;
  }
}
