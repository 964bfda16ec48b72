// Rows longer than every bucket through the graphs of a model that fuses segments itself.
#pragma once

#include <cstdint>
#include <string>

#include "choosing.h"
#include "dispatch.h"
#include "padding.h"
#include "segmenting.h"

namespace ctxrt::core {

// One row that was run in segments.
struct FusedRow {
  Tensors outputs;  // without a batch axis
  Backend backend;
  std::int64_t segments;
  double ms;         // wall time of all runs
  std::string note;  // says so
};

// Runs rows through the fusion of a bundle, which has one. May be called from several threads.
class Fuser {
 public:
  struct Plan {
    SegmentPlan windows;
    std::string note;
  };

  Fuser(const Chooser& chooser, Dispatcher& dispatcher)
      : manifest_(chooser.manifest), chooser_(chooser), dispatcher_(dispatcher) {}

  // The windows of a row of `length` tokens, longer than every bucket. `memory_budget`, `time_budget` or `quality` if
  // the longest bucket may not run it.
  Result<Plan> plan(std::int64_t length) const;
  // Segments run one by one, which is faster on a CPU and takes the memory of one.
  Result<FusedRow> run(const Row& row, CancelToken* cancel);
  // What runs the segments. Opens the session to know.
  Result<Backend> backend();

 private:
  Result<Tensors> run_windows(const Row& row, const SegmentPlan& plan, CancelToken* cancel);
  Status finish(const SegmentPlan& plan, const std::vector<Tensor>& hidden, const Tensor& contexts, CancelToken* cancel,
                Tensors& answers);
  Result<Tensors> run_graph(FusionGraph graph, const Tensors& feeds, std::int64_t length, CancelToken* cancel);

  const Manifest& manifest_;
  const Chooser& chooser_;
  Dispatcher& dispatcher_;
};

}  // namespace ctxrt::core
