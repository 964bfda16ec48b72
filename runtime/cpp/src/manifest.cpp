#include "manifest.h"

#include <algorithm>

namespace ctxrt::core {

std::string_view name_of(Precision precision) { return kPrecisions[static_cast<std::size_t>(precision)]; }

std::string_view name_of(Backend backend) { return kBackends[static_cast<std::size_t>(backend)]; }

std::string_view name_of(OverflowPolicy policy) { return kPolicies[static_cast<std::size_t>(policy)]; }

std::string_view name_of(Form form) { return form == Form::masked ? "masked" : "unmasked"; }

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

bool fits_budget(const Bucket& bucket, Form form, std::int64_t batch, std::int64_t length) {
  const auto& activation = form == Form::unmasked ? bucket.activation : bucket.masked_activation;
  return !bucket.memory_budget || activation.bytes_for(batch, length) <= static_cast<double>(*bucket.memory_budget);
}

}  // namespace ctxrt::core
