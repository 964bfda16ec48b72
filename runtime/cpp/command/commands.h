// The commands. Each gives the exit status: 0 done, 1 a check failed.
#pragma once

#include "arguments.h"

namespace ctxrt::command {

core::Result<int> inspect(const Arguments& arguments);
core::Result<int> run(const Arguments& arguments);
core::Result<int> generate(const Arguments& arguments);
core::Result<int> explain(const Arguments& arguments);
core::Result<int> verify(const Arguments& arguments);
core::Result<int> bench(const Arguments& arguments);

}  // namespace ctxrt::command
