// The conformance cases of tests/cross: data that Python and C++ both run.
#pragma once

#include <gtest/gtest.h>

#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "manifest.h"
#include "tensor.h"

namespace ctxrt::tests {

using Json = nlohmann::json;

// The cases of `kind`.json.
std::vector<Json> load_cases(const std::string& kind);

// A name that GoogleTest takes, from the case's own.
std::string case_name(const testing::TestParamInfo<Json>& info);

// The array of {"dtype", "shape", "values"}.
core::Tensor array(const Json& json);
core::Tensors arrays(const Json& json);

// The manifest of the bundle `tiny` with a case's changes.
core::Manifest manifest_of(const Json& test_case);

// A folder that goes with the object.
class TemporaryFolder {
 public:
  TemporaryFolder();
  ~TemporaryFolder();
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;
  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

// A copy of `tiny` below `folder` with the case's changes: `files`, `relist`, `manifest`, `text`.
std::filesystem::path make_bundle(const std::filesystem::path& folder, const Json& test_case);

// Whether ONNX Runtime is found here; tests that run graphs are skipped where it is not.
bool has_onnxruntime();

}  // namespace ctxrt::tests

#define CTXRT_NEEDS_ONNXRUNTIME() \
  if (!ctxrt::tests::has_onnxruntime()) GTEST_SKIP() << "ONNX Runtime is not found: set CTXRT_PYTHON"

// One test for each case of a file.
#define CTXRT_CASES_OF(Suite, kind)                                                                                   \
  class Suite : public testing::TestWithParam<ctxrt::tests::Json> {};                                                 \
  INSTANTIATE_TEST_SUITE_P(Cases, Suite, testing::ValuesIn(ctxrt::tests::load_cases(kind)), ctxrt::tests::case_name); \
  TEST_P(Suite, Holds)
