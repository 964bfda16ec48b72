// What the command prints: tables for people, JSON for scripts.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "runtime.h"

namespace ctxrt::command {

using Cells = std::vector<std::string>;

void print_table(const std::vector<Cells>& rows);
void print_json(const nlohmann::ordered_json& json);

// "1.234", with `digits` after the point.
std::string fixed(double number, int digits);

nlohmann::ordered_json to_json(const core::Dispatch& dispatch);

}  // namespace ctxrt::command
