#include "fusing.h"

#include <array>
#include <chrono>

namespace ctxrt::core {

Result<Fuser::Plan> Fuser::plan(std::int64_t length) const {
  CTXRT_CHECK(chooser_.check_segments(length));
  const std::int64_t window = manifest_.max_length();
  const Framing framing{manifest_.fusion->prefix, manifest_.fusion->suffix};
  auto windows = plan_segments(length, window, manifest_.overflow.overlap, framing);
  std::string note =
      text(length, " tokens in ", windows.segments.size(), " segments of ", window, ", fused by the model");
  return Plan{std::move(windows), std::move(note)};
}

Result<FusedRow> Fuser::run(const Row& row, CancelToken* cancel) {
  CTXRT_ASSIGN(auto planned, plan(row.length));
  const auto started = std::chrono::steady_clock::now();
  CTXRT_ASSIGN(auto outputs, run_windows(row, planned.windows, cancel));
  const double ms = std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - started).count();
  CTXRT_ASSIGN(const auto served, backend());
  return FusedRow{std::move(outputs), served, std::ssize(planned.windows.segments), ms, std::move(planned.note)};
}

Result<Backend> Fuser::backend() {
  CTXRT_ASSIGN(const auto session, dispatcher_.session(manifest_.buckets.back(), FusionGraph::segment));
  return session->backend();
}

// The outputs of a row, without a batch axis.
Result<Tensors> Fuser::run_windows(const Row& row, const SegmentPlan& plan, CancelToken* cancel) {
  std::vector<Tensor> summaries, hidden;
  for (const auto& segment : plan.segments) {
    const Row window = row.take(segment.indices, manifest_.inputs);
    const Tensors feeds = stack_rows(std::array{&window}, manifest_.inputs, false);
    CTXRT_ASSIGN(auto states, run_graph(FusionGraph::segment, feeds, window.length, cancel));
    summaries.push_back(row_of(states["summary"], 0));
    if (manifest_.fusion->finish) hidden.push_back(std::move(states["hidden"]));
  }
  const Tensors feeds{{"summaries", with_batch(stack(summaries))}};
  CTXRT_ASSIGN(auto fused, run_graph(FusionGraph::fuse, feeds, std::ssize(summaries), cancel));
  Tensors answers;
  for (const auto& spec : manifest_.outputs) {
    if (!spec.length_axis()) answers.emplace(spec.name, row_of(fused[spec.name], 0));
  }
  if (!hidden.empty()) CTXRT_CHECK(finish(plan, hidden, row_of(fused["contexts"], 0), cancel, answers));
  return answers;
}

// Adds the outputs with a length: those of each window in its context, joined token by token.
Status Fuser::finish(const SegmentPlan& plan, const std::vector<Tensor>& hidden, const Tensor& contexts,
                     CancelToken* cancel, Tensors& answers) {
  std::map<std::string, std::vector<Tensor>> parts;
  for (std::size_t i = 0; i < hidden.size(); ++i) {
    const Tensors feeds{{"hidden", hidden[i]}, {"context", with_batch(row_of(contexts, i))}};
    CTXRT_ASSIGN(const auto finished, run_graph(FusionGraph::finish, feeds, manifest_.max_length(), cancel));
    for (const auto& [name, tensor] : finished) parts[name].push_back(row_of(tensor, 0));
  }
  for (const auto& spec : manifest_.outputs) {
    if (spec.length_axis()) answers.emplace(spec.name, fuse(plan, parts[spec.name], spec));
  }
  return Unit{};
}

// What a graph gives, held to its shapes. The session may be closed for another graph between two runs.
Result<Tensors> Fuser::run_graph(FusionGraph graph, const Tensors& feeds, std::int64_t length, CancelToken* cancel) {
  if (cancel != nullptr && cancel->cancelled()) return cancelled_error();
  const Bucket& bucket = manifest_.buckets.back();
  CTXRT_ASSIGN(const auto session, dispatcher_.session(bucket, graph));
  CTXRT_ASSIGN(auto outputs, session->run(feeds, bucket, cancel));
  for (const auto& spec : manifest_.outputs_of(graph)) {
    CTXRT_CHECK(check_shape(outputs.find(spec.name)->second, spec, 1, length));
  }
  return outputs;
}

}  // namespace ctxrt::core
