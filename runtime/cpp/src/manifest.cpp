#include "manifest.h"

#include <algorithm>

namespace ctxrt::core {

std::string_view name_of(Precision precision) { return kPrecisions[static_cast<std::size_t>(precision)]; }

std::string_view name_of(Backend backend) { return kBackends[static_cast<std::size_t>(backend)]; }

std::string_view name_of(OverflowPolicy policy) { return kPolicies[static_cast<std::size_t>(policy)]; }

std::string_view name_of(Form form) { return form == Form::masked ? "masked" : "unmasked"; }

std::string_view name_of(GraphForm form) {
  if (const auto* own = std::get_if<Form>(&form)) return name_of(*own);
  constexpr std::array<std::string_view, 3> names{"segment", "fuse", "finish"};
  return names[static_cast<std::size_t>(std::get<FusionGraph>(form))];
}

std::optional<Backend> find_backend(std::string_view name) {
  const auto found = std::find(kBackends.begin(), kBackends.end(), name);
  if (found == kBackends.end()) return std::nullopt;
  return static_cast<Backend>(found - kBackends.begin());
}

std::optional<std::size_t> TensorSpec::length_axis() const {
  const auto found = std::find(shape.begin(), shape.end(), kLength);
  if (found == shape.end()) return std::nullopt;
  return found - shape.begin();
}

Shape TensorSpec::sized(std::int64_t batch, std::int64_t length) const {
  Shape sizes = shape;
  std::replace(sizes.begin(), sizes.end(), kBatch, batch);
  std::replace(sizes.begin(), sizes.end(), kLength, length);
  return sizes;
}

const std::string& FusionRecord::path(FusionGraph graph) const {
  if (graph == FusionGraph::finish) return *finish;
  return graph == FusionGraph::segment ? segment : fuse;
}

TensorSpec FusionRecord::state(const std::string& name) const {
  if (name == "hidden") return {name, DType::float32, {kBatch, kLength, hidden_size}};
  if (name == "summary" || name == "context") return {name, DType::float32, {kBatch, summaries, hidden_size}};
  return {name, DType::float32, {kBatch, kLength, summaries, hidden_size}};
}

std::vector<TensorSpec> Manifest::outputs_of(FusionGraph graph) const {
  std::vector<TensorSpec> given;
  if (graph == FusionGraph::segment) given.push_back(fusion->state("summary"));
  if (graph == FusionGraph::segment && fusion->finish) given.push_back(fusion->state("hidden"));
  if (graph == FusionGraph::fuse && fusion->finish) given.push_back(fusion->state("contexts"));
  for (const auto& output : outputs) {
    if (graph == (output.length_axis() ? FusionGraph::finish : FusionGraph::fuse)) given.push_back(output);
  }
  return given;
}

const InputSpec* Manifest::find_role(Role role) const {
  const auto found = std::find_if(inputs.begin(), inputs.end(), [role](const auto& spec) { return spec.role == role; });
  return found == inputs.end() ? nullptr : &*found;
}

std::optional<std::size_t> find_bucket(const std::vector<Bucket>& buckets, std::int64_t length) {
  const auto found =
      std::lower_bound(buckets.begin(), buckets.end(), length,
                       [](const Bucket& bucket, std::int64_t value) { return bucket.max_length < value; });
  if (found == buckets.end()) return std::nullopt;
  return found - buckets.begin();
}

Status check_shape(const Tensor& output, const TensorSpec& spec, std::int64_t batch, std::int64_t length) {
  const Shape expected = spec.sized(batch, length);
  if (output.shape == expected) return Unit{};
  return backend_error(
      text("output '", spec.name, "' has shape ", describe(output.shape), ", expected ", describe(expected)));
}

bool fits_budget(const Bucket& bucket, Form form, std::int64_t batch, std::int64_t length) {
  const auto& activation = form == Form::unmasked ? bucket.activation : bucket.masked_activation;
  return !bucket.memory_budget || activation.bytes_for(batch, length) <= static_cast<double>(*bucket.memory_budget);
}

}  // namespace ctxrt::core
