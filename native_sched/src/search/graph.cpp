#include "search/graph.hpp"

#include <algorithm>

namespace native_sched {
namespace {

constexpr i64 kMostBytes = i64{300} << 20;

}  // namespace

bool Graph::within(const Model& model, i64 budget) {
  // What a search holds for a vertex, at most: itself, its predecessors, and a bit for each cut.
  const i64 bytes = 20 + 4 * i64{model.num_classes()} + i64{model.num_cuts()} / 8;
  const i64 most = std::min(budget, kMostBytes / bytes);
  if (model.ordered()) return i64{model.max_stages()} * model.num_classes() < most;
  i64 vertices = std::max(model.num_classes(), 1);
  for (int c = 0; c < model.num_classes(); ++c) {
    vertices *= model.count(c) + 1;
    if (vertices > most) return false;
  }
  return true;
}

Graph Graph::build(const Model& model) {
  Graph graph;
  graph.add(-1, 0, 0);
  if (model.ordered()) {
    graph.build_ordered(model);
  } else {
    graph.build_free(model);
  }
  graph.pred_begin_.push_back(static_cast<int>(graph.preds_.size()));
  return graph;
}

void Graph::add(int cls, int stages, int counts) {
  class_.push_back(cls);
  stages_.push_back(stages);
  counts_.push_back(counts);
  pred_begin_.push_back(static_cast<int>(preds_.size()));
}

void Graph::build_free(const Model& model) {
  const int classes = model.num_classes();
  int total = 1;
  for (int c = 0; c < classes; ++c) {
    stride_.push_back(total);
    total *= model.count(c) + 1;
  }
  const auto digit = [&](int counts, int c) { return counts / stride_[at(c)] % (model.count(c) + 1); };
  std::vector<std::vector<int>> levels(at(model.max_stages() + 1));
  for (int counts = 0; counts < total; ++counts) {
    int stages = 0;
    for (int c = 0; c < classes; ++c) stages += digit(counts, c);
    if (stages <= model.max_stages()) levels[at(stages)].push_back(counts);
  }
  std::vector<int> vertex_of(at(total) * at(classes), -1);
  for (int stages = 1; stages <= model.max_stages(); ++stages) {
    for (const int counts : levels[at(stages)]) {
      for (int c = 0; c < classes; ++c) {
        if (digit(counts, c) == 0) continue;
        vertex_of[at(counts) * at(classes) + at(c)] = size();
        add(c, stages, counts);
        const int before = counts - stride_[at(c)];
        if (stages == 1) preds_.push_back(0);
        for (int p = 0; p < classes && stages > 1; ++p) {
          if (digit(before, p) > 0) preds_.push_back(vertex_of[at(before) * at(classes) + at(p)]);
        }
      }
    }
  }
}

void Graph::build_ordered(const Model& model) {
  const int hosts = model.num_classes();
  for (int stages = 1; stages <= model.max_stages(); ++stages) {
    const int level = 1 + (stages - 2) * hosts;
    for (int c = 0; c < hosts; ++c) {
      add(c, stages, 0);
      if (stages == 1) preds_.push_back(0);
      for (int p = 0; p < c && stages > 1; ++p) preds_.push_back(level + p);
    }
  }
}

namespace {

// For each cut the last one up to it at which class c may end a stage, over any of its links; -1 for none.
std::vector<int> last_exits(const Model& model, int c, const Limits& limits) {
  std::vector<int> exits(static_cast<std::size_t>(model.num_cuts()), -1);
  int sizes = 0;
  for (int to = 0; to < model.num_classes(); ++to)
    sizes = std::max(sizes, model.crossing_sizes(c, to, limits));
  int last = -1;
  for (int cut = 1; cut < model.num_cuts(); ++cut) {
    const bool open =
        cut == model.last_cut() ? model.output(c) <= limits.output : model.bytes_id(cut) < sizes;
    if (open) last = cut;
    exits[static_cast<std::size_t>(cut)] = last;
  }
  return exits;
}

// For each cut the first from which one stage of class c gets there or beyond; the number of cuts where none
// does.
std::vector<int> first_starts(const Model& model, int c, const Rows& rows, const Limits& limits) {
  std::vector<int> starts(static_cast<std::size_t>(model.num_cuts()), model.num_cuts());
  const std::vector<int> exits = last_exits(model, c, limits);
  int sizes = 0;
  for (int from = 0; from < model.num_classes(); ++from)
    sizes = std::max(sizes, model.crossing_sizes(from, c, limits));
  int covered = 0;
  for (int i = 0; i < model.last_cut() && covered < model.last_cut(); ++i) {
    const int first = rows.begin[static_cast<std::size_t>(i)];
    const int stop = rows.begin[static_cast<std::size_t>(i + 1)];
    if (first == stop) continue;
    const int furthest =
        exits[static_cast<std::size_t>(rows.runs[static_cast<std::size_t>(stop - 1)].stop - 1)];
    const bool open = i == 0 ? model.input(c) <= limits.input : model.bytes_id(i) < sizes;
    if (furthest <= covered || !open) continue;
    while (covered < furthest) starts[static_cast<std::size_t>(++covered)] = i;
  }
  return starts;
}

}  // namespace

std::vector<int> Graph::least_cuts(const Model& model, const std::vector<Rows>& rows,
                                   const Limits& limits) const {
  std::vector<int> least(class_.size(), 0);
  if (model.ordered()) return least;
  const int cuts = model.num_cuts();
  const int classes = model.num_classes();
  std::vector<std::vector<int>> back;
  for (int c = 0; c < classes; ++c) back.push_back(first_starts(model, c, rows[at(c)], limits));
  int total = 1;
  for (int c = 0; c < classes; ++c) total *= model.count(c) + 1;
  std::vector<int> from(at(total), cuts);
  from[0] = cuts - 1;
  std::vector<int> digits(at(classes), 0);
  int stages = 0;
  for (int counts = 1; counts < total; ++counts) {
    std::size_t raised = 0;
    for (; digits[raised] == model.count(static_cast<int>(raised)); ++raised) {
      stages -= digits[raised];
      digits[raised] = 0;
    }
    ++digits[raised];
    if (++stages > model.max_stages()) continue;
    int best = cuts - 1;
    for (int c = 0; c < classes; ++c) {
      if (digits[at(c)] == 0) continue;
      const int next = from[at(counts - stride_[at(c)])];
      best = std::min(best, next == 0 ? 0 : back[at(c)][at(next)]);
    }
    from[at(counts)] = best;
  }
  for (int v = 0; v < size(); ++v) {
    const int left = total - 1 - counts_[at(v)];
    // With fewer stages allowed than hosts there are, what is left is not what may still be used.
    least[at(v)] = from[at(left)] >= cuts ? 0 : from[at(left)];
  }
  return least;
}

}  // namespace native_sched
