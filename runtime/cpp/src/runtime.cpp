#include "runtime.h"

#include <algorithm>
#include <chrono>
#include <iterator>
#include <numeric>
#include <thread>

#include "ort_library.h"

namespace ctxrt::core {

Result<std::unique_ptr<Runtime>> Runtime::open(const Path& path, const Options& options) {
  // ONNX Runtime is loaded while the bundle is checked; where it is missing, the first run says so.
  const std::jthread loading([] { static_cast<void>(OrtLibrary::get()); });
  CTXRT_ASSIGN(auto opened, open_bundle(path, options.check));
  auto bundle = std::make_unique<Bundle>(std::move(opened));
  if (options.min_quality && bundle->manifest.quality.empty()) {
    return Error{ErrorKind::quality, "the bundle has no table of quality", "build it from a model that was evaluated",
                 ""};
  }
  DispatcherOptions dispatching;
  dispatching.backends = options.backends;
  dispatching.share_weights = options.share_weights.value_or(bundle->manifest.share_weights);
  dispatching.session_budget = options.session_budget ? options.session_budget : bundle->manifest.session_budget;
  const auto min_quality = options.min_quality ? options.min_quality : bundle->manifest.min_quality;
  return std::unique_ptr<Runtime>(new Runtime(std::move(bundle), std::move(dispatching), min_quality));
}

Runtime::Runtime(std::unique_ptr<Bundle> bundle, DispatcherOptions options, std::optional<double> min_quality)
    : bundle_(std::move(bundle)), chooser_{bundle_->manifest, min_quality}, dispatcher_(*bundle_, std::move(options)) {
  if (manifest().fusion && manifest().overflow.policy == OverflowPolicy::segment) fuser_.emplace(chooser_, dispatcher_);
  if (manifest().decoder) generator_.emplace(manifest(), dispatcher_);
  for (const auto& bucket : manifest().buckets) stats_[bucket.name] = {};
}

Form Runtime::form_alone() const { return manifest().find_role(Role::mask) == nullptr ? Form::masked : Form::unmasked; }

Status Runtime::check_open() const {
  if (!closed_) return Unit{};
  return Error{ErrorKind::closed, "the runtime is closed", "open the bundle again", ""};
}

Result<std::vector<RunResult>> Runtime::run(std::span<const Tensors> inputs, CancelToken* cancel) {
  CTXRT_CHECK(check_open());
  if (manifest().decoder) {
    return input_error(text(manifest().name, " generates text and has no other outputs"), "use generate");
  }
  std::vector<Rows> groups;
  for (const auto& input : inputs) {
    CTXRT_ASSIGN(auto rows, read_rows(input, manifest()));
    groups.push_back(std::move(rows));
  }
  std::vector<const Row*> rows;
  for (const auto& group : groups) {
    for (const auto& row : group.rows) rows.push_back(&row);
  }
  CTXRT_ASSIGN(auto answers, run_rows(rows, cancel));
  std::vector<RunResult> results;
  std::span<Answer> left(answers);
  for (const auto& group : groups) {
    results.push_back(gathered(left.first(group.rows.size()), group.batched));
    left = left.subspan(group.rows.size());
  }
  return results;
}

Result<Generation> Runtime::generate(std::span<const std::int64_t> ids, const GenerationSettings& settings,
                                     const OnToken& on_token, CancelToken* cancel) {
  CTXRT_CHECK(check_open());
  if (!generator_) return input_error(text(manifest().name, " does not generate text"), "use run");
  return generator_->generate(ids, settings, on_token, cancel);
}

Result<Explanation> Runtime::explain(std::int64_t length, std::int64_t batch) {
  CTXRT_CHECK(check_open());
  if (length < 1 || batch < 1) {
    return input_error(text("expected a length and a batch of at least 1, got ", length, " and ", batch));
  }
  if (fuses(length)) {
    CTXRT_ASSIGN(const auto planned, fuser_->plan(length));
    CTXRT_ASSIGN(const auto backend, fuser_->backend());
    return Explanation{length, manifest().buckets.back().name, backend, std::ssize(planned.windows.segments),
                       planned.note};
  }
  if (generator_) {
    CTXRT_ASSIGN(const auto choice, generator_->ladder(batch).choose(length, std::nullopt));
    CTXRT_ASSIGN(const auto session, dispatcher_.session(*choice.bucket, form_alone()));
    return Explanation{length, choice.bucket->name, session->backend(), 1, choice.reason};
  }
  const auto& special = manifest().special_tokens;
  CTXRT_ASSIGN(const auto cut, overflow(length, {std::ssize(special.prefix), std::ssize(special.suffix)}));
  CTXRT_ASSIGN(const auto choice, chooser_.choose(cut.length, cut.plan ? 1 : batch));
  CTXRT_ASSIGN(const auto session, dispatcher_.session(*choice.bucket, form_alone()));
  return Explanation{length, choice.bucket->name, session->backend(), cut.plan ? std::ssize(cut.plan->segments) : 1,
                     cut.note.empty() ? choice.reason : cut.note};
}

Stats Runtime::stats() const {
  const std::lock_guard lock(stats_mutex_);
  return {stats_, dispatcher_.state()};
}

Result<Runtime::Cut> Runtime::overflow(std::int64_t length, Framing framing) const {
  const std::int64_t longest = manifest().max_length();
  const auto& overflow = manifest().overflow;
  if (length <= longest) return Cut{std::nullopt, length, ""};
  if (overflow.policy == OverflowPolicy::error) {
    return Error{ErrorKind::too_long, text(length, " tokens are more than the ", longest, " that the bundle takes"),
                 "shorten the input, or build with the overflow policy `segment`", ""};
  }
  if (overflow.policy == OverflowPolicy::truncate) {
    return Cut{std::nullopt, longest,
               text("truncated: ", length - longest, " of ", length, " tokens beyond ", longest, " were cut off")};
  }
  auto plan = plan_segments(length, longest, overflow.overlap, framing);
  std::string note = text(length, " tokens in ", plan.segments.size(), " segments of ", longest);
  return Cut{std::move(plan), longest, std::move(note)};
}

// The parts of a row that are run: itself, its truncated self, or its windows.
Result<Runtime::Cut> Runtime::split(const Row& row, std::vector<Row>& parts) const {
  const auto& inputs = manifest().inputs;
  Framing framing;
  const auto* tokens = manifest().find_role(Role::tokens);
  if (row.length > manifest().max_length() && tokens != nullptr) {
    framing = find_framing(row.arrays[tokens - inputs.data()], manifest().special_tokens);
  }
  CTXRT_ASSIGN(auto cut, overflow(row.length, framing));
  if (cut.plan) {
    for (const auto& segment : cut.plan->segments) parts.push_back(row.take(segment.indices, inputs));
  } else if (cut.length < row.length) {
    std::vector<std::int64_t> kept(cut.length);
    std::iota(kept.begin(), kept.end() - framing.suffix, 0);
    std::iota(kept.end() - framing.suffix, kept.end(), row.length - framing.suffix);
    parts.push_back(row.take(kept, inputs));
  } else {
    parts.push_back(row);
  }
  return cut;
}

// Rows that the model fuses run one by one, all others together.
Result<std::vector<Runtime::Answer>> Runtime::run_rows(std::span<const Row* const> rows, CancelToken* cancel) {
  std::vector<const Row*> others;
  std::copy_if(rows.begin(), rows.end(), std::back_inserter(others), [&](auto row) { return !fuses(row->length); });
  CTXRT_ASSIGN(auto answers, run_in_buckets(others, cancel));
  if (others.size() == rows.size()) return answers;
  std::vector<Answer> whole;
  for (auto next = answers.begin(); const Row* row : rows) {
    if (!fuses(row->length)) {
      whole.push_back(std::move(*next++));
      continue;
    }
    CTXRT_ASSIGN(auto answer, run_fused(*row, cancel));
    whole.push_back(std::move(answer));
  }
  return whole;
}

Result<Runtime::Answer> Runtime::run_fused(const Row& row, CancelToken* cancel) {
  CTXRT_ASSIGN(auto fused, fuser_->run(row, cancel));
  const auto& bucket = manifest().buckets.back().name;
  Answer answer{std::move(fused.outputs),
                {row.length, bucket, fused.backend, 0, fused.segments, fused.ms, std::move(fused.note)}};
  count_fused(answer.dispatch);
  return answer;
}

Result<std::vector<Runtime::Answer>> Runtime::run_in_buckets(std::span<const Row* const> rows, CancelToken* cancel) {
  std::vector<std::optional<SegmentPlan>> plans;
  std::vector<Job> jobs;
  for (const Row* row : rows) {
    std::vector<Row> parts;
    CTXRT_ASSIGN(auto cut, split(*row, parts));
    for (auto& part : parts) {
      CTXRT_ASSIGN(auto choice, chooser_.choose(part.length, 1));
      jobs.push_back(
          {std::move(part), choice.bucket, cut.plan.has_value(), cut.note.empty() ? choice.reason : cut.note});
    }
    plans.push_back(std::move(cut.plan));
  }
  CTXRT_ASSIGN(auto answers, run_jobs(jobs, cancel));
  std::vector<Answer> whole;
  std::span<Answer> left(answers);
  for (std::size_t i = 0; i < rows.size(); ++i) {
    const std::size_t parts = plans[i] ? plans[i]->segments.size() : 1;
    whole.push_back(plans[i] ? fused(*rows[i], *plans[i], left.first(parts)) : std::move(left.front()));
    left = left.subspan(parts);
  }
  return whole;
}

Result<std::vector<Runtime::Answer>> Runtime::run_jobs(const std::vector<Job>& jobs, CancelToken* cancel) {
  std::vector<Answer> answers(jobs.size());
  const bool may_pad = manifest().padding_invariant && manifest().find_role(Role::mask) != nullptr;
  for (const auto& batch : form_batches(jobs, may_pad)) {
    if (cancel != nullptr && cancel->cancelled()) return cancelled_error();
    CTXRT_CHECK(run_batch(jobs, batch, cancel, answers));
  }
  return answers;
}

// Runs jobs of one bucket together, padded to the longest.
Status Runtime::run_batch(const std::vector<Job>& jobs, std::span<const std::size_t> batch, CancelToken* cancel,
                          std::vector<Answer>& answers) {
  const Bucket& bucket = *jobs[batch.front()].bucket;
  std::vector<const Row*> rows;
  std::int64_t longest = 0;
  for (const auto index : batch) {
    rows.push_back(&jobs[index].row);
    longest = std::max(longest, jobs[index].row.length);
  }
  const bool padded = std::any_of(rows.begin(), rows.end(), [&](const Row* row) { return row->length < longest; });
  CTXRT_ASSIGN(const auto session, dispatcher_.session(bucket, padded ? Form::masked : form_alone()));
  const auto* mask = manifest().find_role(Role::mask);
  const auto& names = session->inputs();
  const bool masked = mask != nullptr && std::find(names.begin(), names.end(), mask->name) != names.end();
  const Tensors feeds = stack_rows(rows, manifest().inputs, masked);
  const auto started = std::chrono::steady_clock::now();
  CTXRT_ASSIGN(const auto outputs, session->run(feeds, bucket, cancel));
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - started).count();
  for (const auto& spec : manifest().outputs) {
    CTXRT_CHECK(check_shape(outputs.find(spec.name)->second, spec, std::ssize(rows), longest));
  }
  count(bucket.name, rows, longest, seconds);
  for (std::size_t i = 0; i < batch.size(); ++i) {
    const std::int64_t length = rows[i]->length;
    answers[batch[i]] = {
        outputs_of_row(outputs, i, length),
        {length, bucket.name, session->backend(), longest - length, 1, seconds * 1e3, jobs[batch[i]].reason}};
  }
  return Unit{};
}

// The outputs of one row of a batch, cropped to its length.
Tensors Runtime::outputs_of_row(const Tensors& outputs, std::size_t index, std::int64_t length) const {
  Tensors row;
  for (const auto& spec : manifest().outputs) {
    Tensor array = row_of(outputs.find(spec.name)->second, index);
    if (const auto axis = spec.length_axis()) array = slice(array, *axis - 1, 0, length);
    row.emplace(spec.name, std::move(array));
  }
  return row;
}

Runtime::Answer Runtime::fused(const Row& row, const SegmentPlan& plan, std::span<Answer> answers) const {
  Answer whole{{}, answers.front().dispatch};
  whole.dispatch.length = row.length;
  whole.dispatch.segments = std::ssize(answers);
  whole.dispatch.ms = 0;
  whole.dispatch.padding = 0;
  for (const auto& answer : answers) {
    whole.dispatch.ms += answer.dispatch.ms;
    whole.dispatch.padding += answer.dispatch.padding;
  }
  for (const auto& spec : manifest().outputs) {
    std::vector<Tensor> parts;
    for (const auto& answer : answers) parts.push_back(answer.outputs.find(spec.name)->second);
    whole.outputs.emplace(spec.name, fuse(plan, parts, spec));
  }
  return whole;
}

// Rows in one result; without a batch axis for the one row of inputs that had none.
RunResult Runtime::gathered(std::span<Answer> answers, bool batched) const {
  RunResult result;
  std::vector<Tensors> rows;
  std::int64_t longest = 0;
  for (auto& answer : answers) {
    longest = std::max(longest, answer.dispatch.length);
    rows.push_back(std::move(answer.outputs));
    result.dispatch.push_back(std::move(answer.dispatch));
  }
  result.outputs = batched ? join_rows(rows, manifest().outputs, longest) : std::move(rows.front());
  return result;
}

void Runtime::count(const std::string& bucket, std::span<const Row* const> rows, std::int64_t longest, double seconds) {
  const std::lock_guard lock(stats_mutex_);
  auto& stats = stats_[bucket];
  ++stats.runs;
  stats.rows += std::ssize(rows);
  for (const Row* row : rows) {
    stats.tokens += row->length;
    stats.padding += longest - row->length;
  }
  stats.seconds += seconds;
}

void Runtime::count_fused(const Dispatch& run) {
  const std::lock_guard lock(stats_mutex_);
  auto& stats = stats_[run.bucket];
  stats.runs += run.segments;
  stats.rows += run.segments;
  ++stats.fused;
  stats.tokens += run.segments * manifest().max_length();
  stats.seconds += run.ms / 1e3;
}

}  // namespace ctxrt::core
