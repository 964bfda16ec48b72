// Inputs longer than every bucket: windows over their tokens, and the fusion of the windows' outputs.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "manifest.h"
#include "tensor.h"

namespace ctxrt::core {

struct Segment {
  std::int64_t start;                    // the first content position of the window
  std::int64_t owned_start, owned_stop;  // the content positions whose outputs are taken from this window
  std::vector<std::int64_t> indices;     // positions of the row that make the window: prefix, content, suffix
};

struct SegmentPlan {
  std::vector<Segment> segments;  // each full
  std::int64_t prefix = 0, suffix = 0;
};

struct Framing {
  std::int64_t prefix = 0, suffix = 0;  // special tokens that lead and close a row
};

// How many special tokens frame a row of token ids (length,); none if it is not framed by both.
Framing find_framing(const Tensor& tokens, const SpecialTokens& special_tokens);

// Cuts a row of `length` tokens, longer than `window`, into the fewest full windows whose neighbours share at least
// `overlap` content tokens, evenly spaced. A position in two windows belongs to the one where it has more context: the
// overlap is split in the middle, an odd one in favour of the earlier. The window holds more than the framing and the
// overlap.
SegmentPlan plan_segments(std::int64_t length, std::int64_t window, std::int64_t overlap, Framing framing);

// One output of a row from the outputs of its windows, none with a batch axis: `concat` gives (length, …) from
// (window, …), the poolings (…) from (…).
Tensor fuse(const SegmentPlan& plan, std::span<const Tensor> outputs, const OutputSpec& spec);

}  // namespace ctxrt::core
