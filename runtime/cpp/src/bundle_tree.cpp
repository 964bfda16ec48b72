#include "bundle_tree.h"

#include <sys/stat.h>

#include <algorithm>
#include <map>
#include <set>

#include "names.h"

namespace ctxrt::core {
namespace {

namespace fs = std::filesystem;

constexpr std::size_t kMaxComponents = 8, kMaxComponentBytes = 255;

bool is_safe_component(std::string_view component) {
  const auto allowed = [](char c) {
    return is_alphanumeric(c) || std::string_view("._+-").find(c) != std::string_view::npos;
  };
  return !component.empty() && component.size() <= kMaxComponentBytes && component.back() != '.' &&
         std::all_of(component.begin(), component.end(), allowed);
}

bool is_safe_path(std::string_view path) {
  std::size_t components = 1;
  for (auto slash = path.find('/'); slash != std::string_view::npos; slash = path.find('/')) {
    if (!is_safe_component(path.substr(0, slash)) || ++components > kMaxComponents) return false;
    path.remove_prefix(slash + 1);
  }
  return is_safe_component(path);
}

std::string lower(std::string path) {
  std::transform(path.begin(), path.end(), path.begin(),
                 [](char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c; });
  return path;
}

// One walk over a bundle's folder.
class Walk {
 public:
  Walk(const Path& root, const Manifest& manifest) : root_(root) {
    for (const auto& record : manifest.files) {
      missing_.emplace(record.path, record.bytes);
      for (auto slash = record.path.find('/'); slash != std::string::npos; slash = record.path.find('/', slash + 1)) {
        folders_.insert(record.path.substr(0, slash));
      }
    }
  }

  Status run() {
    CTXRT_CHECK(visit_folder(""));
    if (missing_.empty()) return Unit{};
    return bundle_error("file-missing", missing_.begin()->first + " is missing", "copy the whole folder");
  }

 private:
  Status visit_folder(const std::string& folder) {
    std::error_code failure;
    std::set<std::string> names;
    for (fs::directory_iterator entry(root_ / folder, failure), end; !failure && entry != end;
         entry.increment(failure)) {
      names.insert(entry->path().filename().string());
    }
    if (failure) return bundle_error("file-missing", text("'", folder, "' can't be read: ", failure.message()));
    for (const auto& name : names) CTXRT_CHECK(visit(folder + name));
    return Unit{};
  }

  Status visit(const std::string& path) {
    struct stat status {};
    if (::lstat((root_ / path).c_str(), &status) != 0) return bundle_error("file-missing", path + " can't be read");
    if (S_ISDIR(status.st_mode)) {
      if (folders_.contains(path)) return visit_folder(path + "/");
      return bundle_error("file-unlisted", text("the folder '", path, "' holds no file of the manifest"));
    }
    CTXRT_CHECK(check_plain(root_ / path, path));
    if (path == kManifestName) return Unit{};
    const auto record = missing_.find(path);
    if (record == missing_.end()) return bundle_error("file-unlisted", text("'", path, "' is not in the manifest"));
    if (status.st_size != record->second) {
      return bundle_error("file-size",
                          text(path, " has ", status.st_size, " bytes, the manifest says ", record->second));
    }
    missing_.erase(record);
    return Unit{};
  }

  const Path& root_;
  std::map<std::string, std::int64_t> missing_;  // bytes of the listed files that were not found yet
  std::set<std::string> folders_;
};

}  // namespace

Status check_plain(const Path& path, const std::string& name) {
  struct stat status {};
  if (::lstat(path.c_str(), &status) != 0) return bundle_error("not-a-bundle", text("'", name, "' can't be read"));
  if (!S_ISREG(status.st_mode)) return bundle_error("link", text("'", name, "' is not a regular file"));
  if (status.st_nlink > 1)
    return bundle_error("link", text("'", name, "' is a hard link: something else can change it"));
  return Unit{};
}

Status check_listed_paths(const Manifest& manifest) {
  std::set<std::string> seen{std::string(kManifestName)};
  for (const auto& record : manifest.files) {
    if (!is_safe_path(record.path))
      return bundle_error("path-unsafe", text("'", record.path, "' is not a path that a bundle may have"));
    if (!seen.insert(lower(record.path)).second) {
      return bundle_error("path-unsafe",
                          text("'", record.path, "' is listed twice, or differs from another only in case"));
    }
  }
  return Unit{};
}

Status check_tree(const Path& root, const Manifest& manifest) { return Walk(root, manifest).run(); }

}  // namespace ctxrt::core
