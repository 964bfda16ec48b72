// Opens bundles whose paths come on standard input, one a line, and tells of
// each the refusal's code, or "sound". With the argument `full` everything is
// hashed.
#include <iostream>
#include <string>
#include <string_view>

#include "bundle.h"

int main(int count, char** arguments) {
  using ctxrt::core::Check;
  const bool full = count > 1 && std::string_view(arguments[1]) == "full";
  for (std::string path; std::getline(std::cin, path);) {
    const auto bundle = ctxrt::core::open_bundle(path, full ? Check::full : Check::changed);
    std::cout << (bundle ? "sound" : bundle.error().code) << std::endl;
  }
}
