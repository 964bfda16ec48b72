#include "tables.h"

#include <algorithm>
#include <array>
#include <cstdio>
#include <iostream>

namespace ctxrt::command {

void print_table(const std::vector<Cells>& rows) {
  std::vector<std::size_t> widths(rows.front().size(), 0);
  for (const auto& row : rows) {
    for (std::size_t i = 0; i < row.size(); ++i) widths[i] = std::max(widths[i], row[i].size());
  }
  for (const auto& row : rows) {
    std::string line;
    for (std::size_t i = 0; i < row.size(); ++i) line += row[i] + std::string(widths[i] - row[i].size() + 2, ' ');
    line.erase(line.find_last_not_of(' ') + 1);
    std::cout << line << "\n";
  }
}

void print_json(const nlohmann::ordered_json& json) {
  std::cout << json.dump(2, ' ', true, nlohmann::ordered_json::error_handler_t::replace) << "\n";
}

std::string fixed(double number, int digits) {
  std::array<char, 64> out{};
  std::snprintf(out.data(), out.size(), "%.*f", digits, number);
  return out.data();
}

nlohmann::ordered_json to_json(const core::Dispatch& dispatch) {
  return {{"length", dispatch.length},   {"bucket", dispatch.bucket},     {"backend", core::name_of(dispatch.backend)},
          {"padding", dispatch.padding}, {"segments", dispatch.segments}, {"ms", dispatch.ms},
          {"reason", dispatch.reason}};
}

}  // namespace ctxrt::command
