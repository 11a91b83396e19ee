// The Python module. Tensors come as addresses and strides: a call for each layer and token must cost next to
// nothing.
#include <nanobind/nanobind.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <stdexcept>
#include <tuple>

#include "native_attention/attend.hpp"

namespace nb = nanobind;
using native_attention::i64;

namespace {

template <typename T>
T* at(std::uintptr_t address) {
  return reinterpret_cast<T*>(
      address);  // NOLINT(performance-no-int-to-ptr): of a tensor that the caller holds
}

class Rows {
 public:
  explicit Rows(const std::vector<std::tuple<i64, i64, bool>>& rows) {
    for (const auto& [slot, position, whole] : rows) rows_.push_back({slot, position, whole});
  }

  // A message's rows are computed by one thread at a time: the room of the scores is the message's.
  void attend(const native_attention::Room& room, i64 slots, const native_attention::Query& query) {
    for (const auto& row : rows_) {
      if (row.slot < 0 || row.slot >= slots || row.position < 0 || row.position >= room.context) {
        throw std::out_of_range("a row beyond the room");
      }
    }
    native_attention::attend(room, rows_, query, scratch_);
  }

 private:
  std::vector<native_attention::Row> rows_;
  std::vector<float> scratch_;
};

class Room {
 public:
  Room(std::uintptr_t keys, std::uintptr_t values, i64 slots, i64 groups, i64 context, i64 key_size,
       i64 value_size)
      : room_{at<float>(keys), at<float>(values), groups, context, key_size, value_size}, slots_(slots) {}

  void attend(Rows& rows, std::uintptr_t q, i64 q_row, i64 q_head, std::uintptr_t k, i64 k_row, i64 k_head,
              std::uintptr_t v, i64 v_row, i64 v_head, std::uintptr_t result, i64 heads, float scale,
              i64 window, float softcap, std::uintptr_t sinks) const {
    const native_attention::Query query{{at<const float>(q), q_row, q_head},
                                        {at<const float>(k), k_row, k_head},
                                        {at<const float>(v), v_row, v_head},
                                        at<float>(result),
                                        heads,
                                        scale,
                                        window,
                                        softcap,
                                        at<const float>(sinks)};
    rows.attend(room_, slots_, query);
  }

 private:
  native_attention::Room room_;
  i64 slots_;
};

}  // namespace

NB_MODULE(_native_attention, m) {
  m.doc() = "Attention of single tokens over the keys and values that a rank keeps.";
  nb::class_<Rows>(m, "Rows").def(nb::init<const std::vector<std::tuple<i64, i64, bool>>&>(), nb::arg("rows"),
                                  "Each: slot, position, and whether all before is there.");
  nb::class_<Room>(m, "Room")
      .def(nb::init<std::uintptr_t, std::uintptr_t, i64, i64, i64, i64, i64>(), nb::arg("keys"),
           nb::arg("values"), nb::arg("slots"), nb::arg("groups"), nb::arg("context"), nb::arg("key_size"),
           nb::arg("value_size"),
           "Of float32 (slots, groups, context, size) at these addresses, which must outlive it.")
      .def("attend", &Room::attend, nb::call_guard<nb::gil_scoped_release>(),
           "Addresses of float32, with strides of rows and heads in numbers: see attend.hpp.");
}
