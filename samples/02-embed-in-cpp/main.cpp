// Embeds rows of token ids on a pool of threads that share one bundle, and shows which row is closest to the first.
//
//   embed_in_cpp BUNDLE IDS THREADS      IDS holds one row a line: numbers with spaces between
#include <atomic>
#include <ctxrt/ctxrt.hpp>
#include <fstream>
#include <iostream>
#include <numeric>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

namespace {

using Ids = std::vector<std::int64_t>;

struct Embedded {
  std::vector<float> embedding;  // of unit length
  std::string how;               // bucket, segments, time
};

std::vector<Ids> read_rows(const std::string& path) {
  std::ifstream file(path);
  std::vector<Ids> rows;
  for (std::string line; std::getline(file, line);) {
    std::istringstream numbers(line);
    auto& row = rows.emplace_back();
    for (std::int64_t id = 0; numbers >> id;) row.push_back(id);
  }
  return rows;
}

Embedded embed(ctxrt::Runtime& runtime, const Ids& ids) {
  const std::int64_t length = std::ssize(ids);
  const ctxrt::Result result = runtime.run({ctxrt::input<std::int64_t>("input_ids", ids, {length})});
  const auto values = result.output("sentence_embedding").values<float>();
  const ctxrt_dispatch how = result.dispatch();
  std::ostringstream words;
  words << how.length << " tokens in " << how.bucket << ", segments: " << how.segments;
  return {{values.begin(), values.end()}, words.str()};
}

// Every thread takes the next row until none is left: long rows hold up no short ones.
std::vector<Embedded> embed_all(ctxrt::Runtime& runtime, const std::vector<Ids>& rows, unsigned threads) {
  std::vector<Embedded> embedded(rows.size());
  std::atomic<std::size_t> next{0};
  std::atomic<bool> failed{false};
  {
    std::vector<std::jthread> pool;
    for (unsigned i = 0; i < threads; ++i) {
      pool.emplace_back([&] {
        try {
          for (auto row = next++; row < rows.size(); row = next++) embedded[row] = embed(runtime, rows[row]);
        } catch (const ctxrt::Failure& failure) {
          if (!failed.exchange(true)) std::cerr << "error: " << failure.what() << "\nhint: " << failure.hint() << "\n";
        }
      });
    }
  }
  if (failed) std::exit(2);
  return embedded;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 3) {
    std::cerr << "usage: embed_in_cpp BUNDLE IDS [THREADS]\n";
    return 2;
  }
  try {
    ctxrt::Runtime runtime(argv[1]);
    const auto rows = read_rows(argv[2]);
    const auto embedded = embed_all(runtime, rows, argc > 3 ? static_cast<unsigned>(std::stoul(argv[3])) : 2);
    for (const auto& row : embedded) {
      const auto& first = embedded.front().embedding;
      std::cout << row.how << ", similarity to the first: "
                << std::inner_product(first.begin(), first.end(), row.embedding.begin(), 0.0F) << "\n";
    }
    const auto stats = runtime.stats();
    std::cout << stats.pool().open_sessions << " session(s) open for " << stats.pool().buckets << " buckets\n";
    for (std::size_t i = 0; i < stats.pool().fallbacks; ++i)
      std::cerr << "warning: " << stats.fallback(i).reason << "\n";
  } catch (const ctxrt::Failure& failure) {
    std::cerr << "error: " << failure.what() << "\nhint: " << failure.hint() << "\n";
    return 2;
  }
}
