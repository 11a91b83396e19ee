// The Python module. Tensors come as addresses and strides: a call for each layer and token must cost next to
// nothing.
#include <nanobind/nanobind.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <memory>
#include <stdexcept>
#include <string>
#include <tuple>

#include "native_text/attend.hpp"
#include "native_text/attend_bf16.hpp"
#include "native_text/candidates.hpp"
#include "native_text/fused_products.hpp"
#include "native_text/products4.hpp"
#include "native_text/products8.hpp"
#include "native_text/rows.hpp"

namespace nb = nanobind;
using native_text::i64;

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
  void attend(const native_text::Room& room, i64 slots, const native_text::Query& query) {
    for (const auto& row : rows_) {
      if (row.slot < 0 || row.slot >= slots || row.position < 0 || row.position >= room.context) {
        throw std::out_of_range("a row beyond the room");
      }
    }
    native_text::attend(room, rows_, query, scratch_);
  }

 private:
  std::vector<native_text::Row> rows_;
  std::vector<float> scratch_;
};

class Room {
 public:
  Room(std::uintptr_t keys, std::uintptr_t values, i64 slots, i64 groups, i64 context, i64 key_size,
       i64 value_size)
      : room_{at<float>(keys), at<float>(values), groups, context, key_size, value_size}, slots_(slots) {}

  void attend(Rows& rows, std::uintptr_t q, i64 q_row, i64 q_head, std::uintptr_t k, i64 k_row, i64 k_head,
              std::uintptr_t v, i64 v_row, i64 v_head, std::uintptr_t result, i64 heads, float scale,
              i64 window, float softcap, std::uintptr_t sinks, std::uintptr_t cos, i64 cos_row,
              std::uintptr_t sin, i64 sin_row) const {
    const native_text::Query query{{at<const float>(q), q_row, q_head},
                                   {at<const float>(k), k_row, k_head},
                                   {at<const float>(v), v_row, v_head},
                                   at<float>(result),
                                   heads,
                                   scale,
                                   window,
                                   softcap,
                                   at<const float>(sinks),
                                   {at<const float>(cos), cos_row, at<const float>(sin), sin_row}};
    rows.attend(room_, slots_, query);
  }

 private:
  native_text::Room room_;
  i64 slots_;
};

using Address = std::uintptr_t;

class Chunks {
 public:
  explicit Chunks(const std::vector<std::tuple<i64, i64, i64, bool>>& rows) {
    for (const auto& [slot, start, count, whole] : rows) rows_.push_back({slot, start, count, whole});
  }

  const std::vector<native_text::Chunk>& rows() const { return rows_; }

 private:
  std::vector<native_text::Chunk> rows_;
};

class HalfRoom {
 public:
  HalfRoom(Address keys, Address values, i64 slots, i64 groups, i64 context, i64 key_size, i64 value_size)
      : room_{at<std::uint16_t>(keys), at<std::uint16_t>(values), groups, context, key_size, value_size},
        slots_(slots) {}

  using Strides = std::tuple<i64, i64, i64>;

  // A rank computes one message at a time, layer after layer: the scratch serves all of a thread's.
  void attend(const Chunks& chunks, i64 tokens, Address q, const Strides& q_strides, Address k,
              const Strides& k_strides, Address v, const Strides& v_strides, Address result, i64 heads,
              float scale, i64 window, float softcap, Address sinks, Address cos, i64 cos_row, i64 cos_token,
              Address sin, i64 sin_row, i64 sin_token, i64 threads) const {
    for (const auto& row : chunks.rows()) {
      if (row.slot < 0 || row.slot >= slots_ || row.start < 0 || row.count < 0 || row.count > tokens ||
          (row.whole && row.start + row.count > room_.context)) {
        throw std::out_of_range("a row beyond the room");
      }
    }
    thread_local std::vector<std::vector<float>> scratches;
    const auto count = static_cast<std::size_t>(std::max<i64>(1, threads));
    if (scratches.size() < count) scratches.resize(count);
    const auto heads_at = [](Address data, const Strides& strides) {
      return native_text::TokenHeads{at<const float>(data), std::get<0>(strides), std::get<1>(strides),
                                     std::get<2>(strides)};
    };
    native_text::attend(room_, chunks.rows(),
                        {heads_at(q, q_strides),
                         heads_at(k, k_strides),
                         heads_at(v, v_strides),
                         at<float>(result),
                         tokens,
                         heads,
                         scale,
                         window,
                         softcap,
                         at<const float>(sinks),
                         {at<const float>(cos), cos_row, cos_token},
                         {at<const float>(sin), sin_row, sin_token}},
                        std::span(scratches).first(count));
  }

 private:
  native_text::HalfRoom room_;
  i64 slots_;
};

native_text::RowsIn rows_in(Address x, i64 stride, i64 rows, i64 size) {
  return {at<const float>(x), rows, size, stride};
}

native_text::ScaledRows scaled(Address data, Address worth, float most, float least) {
  return {at<float>(data), at<float>(worth), most, least};
}

void bind_rows(nb::module_& m) {
  using Alone = nb::call_guard<nb::gil_scoped_release>;
  m.def(
      "scale",
      [](Address x, i64 stride, i64 rows, i64 size, Address result, Address worth, float most, float least) {
        native_text::scale(rows_in(x, stride, rows, size), scaled(result, worth, most, least));
      },
      Alone());
  m.def(
      "normalize",
      [](Address x, i64 stride, i64 rows, i64 size, Address weights, float epsilon, Address result) {
        native_text::normalize(rows_in(x, stride, rows, size), at<const float>(weights), epsilon,
                               at<float>(result));
      },
      Alone());
  m.def(
      "normalize_and_scale",
      [](Address x, i64 stride, i64 rows, i64 size, Address weights, float epsilon, Address result,
         Address worth, float most, float least) {
        native_text::normalize_and_scale(rows_in(x, stride, rows, size), at<const float>(weights), epsilon,
                                         scaled(result, worth, most, least));
      },
      Alone());
  m.def(
      "gate_and_scale",
      [](Address gate, i64 gate_stride, Address up, i64 up_stride, i64 rows, i64 size, Address result,
         Address worth, float most, float least) {
        native_text::gate_and_scale(rows_in(gate, gate_stride, rows, size),
                                    rows_in(up, up_stride, rows, size), scaled(result, worth, most, least));
      },
      Alone());
  m.def(
      "rotate",
      [](Address x, std::tuple<i64, i64, i64, i64> shape, std::tuple<i64, i64, i64> strides, Address cos,
         i64 cos_row, i64 cos_token, Address sin, i64 sin_row, i64 sin_token, Address result) {
        const auto [rows, heads, tokens, size] = shape;
        const auto [row, head, token] = strides;
        native_text::rotate({at<const float>(x), rows, heads, tokens, size, row, head, token},
                            {at<const float>(cos), cos_row, cos_token},
                            {at<const float>(sin), sin_row, sin_token}, at<float>(result));
      },
      Alone());
  m.def(
      "candidates",
      [](Address scores, i64 rows, i64 size, i64 count, Address best, Address places, Address log_sums) {
        for (i64 row = 0; row < rows; ++row) {
          native_text::candidates(at<const float>(scores) + row * size, size, count,
                                  at<float>(best) + row * count, at<i64>(places) + row * count,
                                  at<float>(log_sums) + row);
        }
      },
      Alone());
}

using PlainOperand = std::tuple<i64, i64>;
using SharedWeights = std::shared_ptr<native_text::Weights>;
using PlainProduct = std::tuple<SharedWeights, PlainOperand, PlainOperand, Address, float, PlainOperand>;

class FusedProducts {
 public:
  FusedProducts(const std::vector<i64>& sizes, const std::vector<PlainProduct>& products)
      : sizes_(sizes), products_(sizes, products_of(products)) {}

  void run(i64 rows, const std::vector<std::tuple<Address, i64>>& given,
           const std::vector<Address>& results) const {
    std::vector<native_text::RowsIn> values;
    for (std::size_t i = 0; i < given.size() && i < sizes_.size(); ++i) {
      values.push_back(rows_in(std::get<0>(given[i]), std::get<1>(given[i]), rows, sizes_[i]));
    }
    std::vector<float*> places;
    for (const Address result : results) places.push_back(at<float>(result));
    products_.run(rows, values, places);
  }

 private:
  static std::vector<native_text::Product> products_of(const std::vector<PlainProduct>& products) {
    const auto operand = [](const PlainOperand& given) {
      return native_text::Operand{std::get<0>(given), std::get<1>(given)};
    };
    std::vector<native_text::Product> found;
    for (const auto& [weights, x, gated, normalizing, epsilon, added] : products) {
      found.push_back(
          {weights, operand(x), operand(gated), at<const float>(normalizing), epsilon, operand(added)});
    }
    return found;
  }

  std::vector<i64> sizes_;
  native_text::FusedProducts products_;
};

void bind_weights(nb::module_& m) {
  using Alone = nb::call_guard<nb::gil_scoped_release>;
  m.attr("most_summed") = native_text::kMostSummed;
  m.def("product_instructions", [] { return std::string(native_text::product_instructions()); });
  m.def("packed_size8", &native_text::packed_size8);
  m.def(
      "pack8",
      [](Address codes, i64 out, i64 in, i64 first, Address packed) {
        native_text::pack8(at<const std::int8_t>(codes), out, in, first, at<std::uint8_t>(packed));
      },
      Alone());
  m.def("packed_size4", &native_text::packed_size4);
  m.def(
      "pack4",
      [](Address codes, Address worth, i64 out, i64 in, i64 first, Address packed) {
        native_text::pack4(at<const std::uint8_t>(codes), at<const std::uint32_t>(worth), out, in, first,
                           at<std::uint8_t>(packed));
      },
      Alone());
  nb::class_<native_text::Weights>(m, "Weights");
  m.def("eight_bits", [](Address packed, Address scale, Address bias, i64 out, i64 in) -> SharedWeights {
    return std::make_shared<native_text::EightBits>(native_text::CodedWeights{
        at<const std::uint8_t>(packed), at<const float>(scale), at<const float>(bias), in, out});
  });
  m.def("four_bits", [](Address packed, Address bias, i64 out, i64 in) -> SharedWeights {
    return std::make_shared<native_text::FourBits>(at<const std::uint8_t>(packed), at<const float>(bias), in,
                                                   out);
  });
}

void bind_fused_products(nb::module_& m) {
  nb::class_<FusedProducts>(m, "FusedProducts")
      .def(nb::init<const std::vector<i64>&, const std::vector<PlainProduct>&>(), nb::arg("sizes"),
           nb::arg("products"))
      .def("run", &FusedProducts::run, nb::call_guard<nb::gil_scoped_release>(), nb::arg("rows"),
           nb::arg("given"), nb::arg("results"));
}

}  // namespace

NB_MODULE(_native_text, m) {
  nb::set_leak_warnings(false);  // a rank's rooms live as long as its process
  m.doc() =
      "Kernels of a language model's step, for one thread. Tensors are addresses of float32 and strides.";
  bind_rows(m);
  bind_weights(m);
  bind_fused_products(m);
  nb::class_<Rows>(m, "Rows").def(nb::init<const std::vector<std::tuple<i64, i64, bool>>&>(), nb::arg("rows"),
                                  "Each: slot, position, and whether all before is there.");
  nb::class_<Room>(m, "Room")
      .def(nb::init<std::uintptr_t, std::uintptr_t, i64, i64, i64, i64, i64>(), nb::arg("keys"),
           nb::arg("values"), nb::arg("slots"), nb::arg("groups"), nb::arg("context"), nb::arg("key_size"),
           nb::arg("value_size"),
           "Of float32 (slots, groups, context, size) at these addresses, which must outlive it.")
      .def("attend", &Room::attend, nb::call_guard<nb::gil_scoped_release>(),
           "Addresses of float32, with strides of rows and heads in numbers: see attend.hpp.");
  nb::class_<Chunks>(m, "Chunks")
      .def(nb::init<const std::vector<std::tuple<i64, i64, i64, bool>>&>(), nb::arg("rows"),
           "Each: slot, first position, number of tokens, and whether all before is there.");
  nb::class_<HalfRoom>(m, "HalfRoom")
      .def(nb::init<Address, Address, i64, i64, i64, i64, i64>(), nb::arg("keys"), nb::arg("values"),
           nb::arg("slots"), nb::arg("groups"), nb::arg("context"), nb::arg("key_size"),
           nb::arg("value_size"),
           "Of bf16 (slots, groups, context, size) at these addresses, which must outlive it.")
      .def("attend", &HalfRoom::attend, nb::call_guard<nb::gil_scoped_release>(),
           "Addresses of float32, with strides of rows, heads and tokens in numbers: see attend_bf16.hpp.");
}
