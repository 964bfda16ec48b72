#include "cases.h"

#include <cctype>
#include <fstream>
#include <sstream>

#include "files.h"
#include "manifest_reader.h"
#include "runtime.h"

namespace ctxrt::tests {
namespace {

namespace fs = std::filesystem;

const fs::path kCases(CTXRT_CASES);

std::string read(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  std::ostringstream out;
  out << file.rdbuf();
  return out.str();
}

void write(const fs::path& path, const std::string& bytes) { std::ofstream(path, std::ios::binary) << bytes; }

std::string from_hex(const std::string& digits) {
  std::string out;
  for (std::size_t i = 0; i + 1 < digits.size(); i += 2)
    out += static_cast<char>(std::stoi(digits.substr(i, 2), nullptr, 16));
  return out;
}

void replace_bytes(const fs::path& path, const Json& pair, bool all) {
  std::string bytes = read(path);
  const std::string from = from_hex(pair[0]), to = from_hex(pair[1]);
  auto found = bytes.find(from);
  ASSERT_NE(found, std::string::npos) << path;
  for (; found != std::string::npos; found = all ? bytes.find(from, found + to.size()) : std::string::npos) {
    bytes.replace(found, from.size(), to);
  }
  write(path, bytes);
}

void change_file(const fs::path& root, const Json& change) {
  const fs::path path = root / change["path"].get<std::string>();
  if (change.contains("delete") || change.contains("link")) fs::remove(path);
  if (change.contains("link")) fs::create_symlink(change["link"].get<std::string>(), path);
  if (change.contains("hard_link")) fs::create_hard_link(root / change["hard_link"].get<std::string>(), path);
  if (change.contains("folder")) fs::create_directory(path);
  if (change.contains("text")) write(path, change["text"]);
  if (change.contains("truncate")) fs::resize_file(path, change["truncate"]);
  if (change.contains("append")) write(path, read(path) + from_hex(change["append"]));
  if (change.contains("replace")) replace_bytes(path, change["replace"], false);
  if (change.contains("replace_all")) replace_bytes(path, change["replace_all"], true);
}

// Lists every file in the manifest with its size and hash, as they are now.
void relist(const fs::path& root) {
  Json manifest = Json::parse(read(root / "manifest.json"));
  manifest["files"] = Json::array();
  for (const auto& entry : fs::recursive_directory_iterator(root)) {
    const std::string path = fs::relative(entry.path(), root).generic_string();
    if (!entry.is_regular_file() || path == "manifest.json") continue;
    manifest["files"].push_back(
        {{"path", path}, {"bytes", entry.file_size()}, {"sha256", *core::sha256_file(entry.path())}});
  }
  write(root / "manifest.json", manifest.dump());
}

Json patched(const fs::path& root, const Json& test_case) {
  return Json::parse(read(root / "manifest.json")).patch(test_case.value("manifest", Json::array()));
}

}  // namespace

std::vector<Json> load_cases(const std::string& kind) { return Json::parse(read(kCases / (kind + ".json"))); }

std::string case_name(const testing::TestParamInfo<Json>& info) {
  std::string name;
  for (const char c : info.param["name"].get<std::string>()) {
    if (std::isalnum(static_cast<unsigned char>(c)) != 0) name += c;
  }
  return name + "_" + std::to_string(info.index);
}

core::Tensor array(const Json& json) {
  const auto dtype = *core::find_dtype(json["dtype"].get<std::string>());
  std::vector<double> numbers;
  for (const auto& value : json["values"])
    numbers.push_back(value.is_boolean() ? value.get<bool>() : value.get<double>());
  return core::from_doubles(numbers, dtype, json["shape"]);
}

core::Tensors arrays(const Json& json) {
  core::Tensors out;
  for (const auto& [name, value] : json.items()) out[name] = array(value);
  return out;
}

core::Manifest manifest_of(const Json& test_case) {
  auto parsed = core::parse_manifest(patched(kCases / "tiny", test_case).dump());
  if (!parsed) throw std::runtime_error(parsed.error().message);
  return *std::move(parsed);
}

TemporaryFolder::TemporaryFolder() {
  std::string name = (fs::temp_directory_path() / "ctxrt-XXXXXX").string();
  path_ = ::mkdtemp(name.data());
}

TemporaryFolder::~TemporaryFolder() { fs::remove_all(path_); }

fs::path make_bundle(const fs::path& folder, const Json& test_case) {
  const fs::path root = folder / "bundle";
  fs::copy(kCases / test_case.value("bundle", "tiny"), root, fs::copy_options::recursive);
  for (const auto& change : test_case.value("files", Json::array())) change_file(root, change);
  if (test_case.value("relist", false)) relist(root);
  if (test_case.contains("text")) {
    write(root / "manifest.json", test_case["text"]);
  } else if (test_case.contains("manifest")) {
    write(root / "manifest.json", patched(root, test_case).dump());
  }
  return root;
}

bool has_onnxruntime() {
  static const bool found = [] {
    const TemporaryFolder folder;
    auto runtime = core::Runtime::open(make_bundle(folder.path(), Json::object()), {});
    return runtime && static_cast<bool>((*runtime)->explain(1, 1));
  }();
  return found;
}

}  // namespace ctxrt::tests
