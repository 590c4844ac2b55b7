// The Python module. It reads a call's arguments where they lie, since the host's time up to the launch is part of a call's latency:
// tvm-ffi's conversion of the nine tensors takes 2 us, and several times that when the CPU's caches hold something else.
//
// The builder asks for no optimisation and leaves torch's debug assertions in.
#define NDEBUG
#pragma GCC optimize("O2", "inline")

#include <torch/csrc/autograd/python_variable.h>

#include <c10/cuda/CUDAStream.h>

#include <climits>
#include <cstdarg>
#include <exception>
#include <stdexcept>

#include "arguments.cuh"

namespace hopper_v9 {

constexpr int kArguments = 11;

// Sets a Python error; false.
[[gnu::cold, gnu::noinline]] static bool refuse(PyObject* kind, const char* format, ...) {
  va_list values;
  va_start(values, format);
  PyErr_FormatV(kind, format, values);
  va_end(values);
  return false;
}

// The first tensor read says which device all are on: `device` is -1 until then.
static bool read_tensor(PyObject* argument, const char* name, c10::ScalarType type, int64_t ndim, bool written, int& device,
                        Tensor& result) {
  if (!THPVariable_CheckExact(argument) && !PyObject_TypeCheck(argument, reinterpret_cast<PyTypeObject*>(THPVariableClass))) {
    return refuse(PyExc_TypeError, "%s: expected a tensor, got %s", name, Py_TYPE(argument)->tp_name);
  }
  const at::Tensor& t = THPVariable_Unpack(argument);
  if (!t.is_cuda()) return refuse(PyExc_ValueError, "%s: must be on a CUDA device", name);
  if (device < 0) device = t.get_device();
  if (t.get_device() != device) return refuse(PyExc_ValueError, "%s: not on the device of hidden_states", name);
  if (t.scalar_type() != type) {
    return refuse(PyExc_TypeError, "%s: expected %s, got %s", name, c10::toString(type), c10::toString(t.scalar_type()));
  }
  if (t.dim() != ndim) {
    return refuse(PyExc_ValueError, "%s: expected %d dimensions, got %d", name, static_cast<int>(ndim), static_cast<int>(t.dim()));
  }
  if (t.layout() != c10::kStrided || !t.is_contiguous()) return refuse(PyExc_ValueError, "%s: must be strided and contiguous", name);
  if (t.is_neg()) return refuse(PyExc_ValueError, "%s: is a view that negates", name);
  result.sizes = t.sizes().data();
  result.data = written ? t.mutable_data_ptr() : const_cast<void*>(t.const_data_ptr());
  if (!result.data && t.numel() > 0) return refuse(PyExc_ValueError, "%s: has no memory", name);  // a fake tensor, for one
  if (reinterpret_cast<uintptr_t>(result.data) % 16 != 0) return refuse(PyExc_ValueError, "%s: must be 16-byte aligned", name);
  return true;
}

static bool read_int(PyObject* argument, const char* name, int& result) {
  if (!PyLong_Check(argument)) return refuse(PyExc_TypeError, "%s: expected an int, got %s", name, Py_TYPE(argument)->tp_name);
  int overflow = 0;
  const long value = PyLong_AsLongAndOverflow(argument, &overflow);
  if (overflow || value < INT_MIN || value > INT_MAX) return refuse(PyExc_ValueError, "%s: beyond 32 bits", name);
  result = static_cast<int>(value);
  return true;
}

static bool read_float(PyObject* argument, const char* name, float& result) {
  if (!PyFloat_Check(argument) && !PyLong_Check(argument)) {
    return refuse(PyExc_TypeError, "%s: expected a float, got %s", name, Py_TYPE(argument)->tp_name);
  }
  const double value = PyFloat_AsDouble(argument);
  if (value == -1.0 && PyErr_Occurred()) return false;
  result = static_cast<float>(value);
  return true;
}

static bool read(PyObject* const* in, Arguments& a) {
  using c10::ScalarType;
  constexpr ScalarType kFp8 = ScalarType::Float8_e4m3fn;
  int device = -1;
  return read_tensor(in[2], "hidden_states", kFp8, 2, false, device, a.x) &&
         read_tensor(in[0], "routing_logits", ScalarType::Float, 2, false, device, a.logits) &&
         read_tensor(in[1], "routing_bias", ScalarType::BFloat16, 1, false, device, a.bias) &&
         read_tensor(in[3], "hidden_states_scale", ScalarType::Float, 2, false, device, a.x_scale) &&
         read_tensor(in[4], "gemm1_weights", kFp8, 3, false, device, a.w13) &&
         read_tensor(in[5], "gemm1_weights_scale", ScalarType::Float, 3, false, device, a.w13_scale) &&
         read_tensor(in[6], "gemm2_weights", kFp8, 3, false, device, a.w2) &&
         read_tensor(in[7], "gemm2_weights_scale", ScalarType::Float, 3, false, device, a.w2_scale) &&
         read_int(in[8], "local_expert_offset", a.expert_offset) &&
         read_float(in[9], "routed_scaling_factor", a.scaling) &&
         read_tensor(in[10], "output", ScalarType::BFloat16, 2, true, device, a.out) && (a.device = device, true);
}

// Holds the GIL throughout, which keeps other threads out of moe.cu. No exception leaves it.
static PyObject* call(PyObject*, PyObject* const* in, Py_ssize_t count) {
  try {
    if (count != kArguments) {
      refuse(PyExc_TypeError, "run: expected %d arguments, got %zd", kArguments, count);
      return nullptr;
    }
    Arguments a;
    if (!read(in, a)) return nullptr;
    a.stream = c10::cuda::getCurrentCUDAStream(static_cast<c10::DeviceIndex>(a.device)).stream();
    run(a);
    Py_RETURN_NONE;
  } catch (const std::invalid_argument& e) {
    PyErr_SetString(PyExc_ValueError, e.what());
  } catch (python_error& e) {  // from a tensor's own Python code
    e.restore();
  } catch (const c10::Error& e) {
    PyErr_SetString(PyExc_RuntimeError, e.what_without_backtrace());
  } catch (const std::exception& e) {
    PyErr_SetString(PyExc_RuntimeError, e.what());
  } catch (...) {
    PyErr_SetString(PyExc_RuntimeError, "unknown exception");
  }
  return nullptr;
}

static PyMethodDef methods[] = {
    {"run", reinterpret_cast<PyCFunction>(reinterpret_cast<void*>(call)), METH_FASTCALL,
     "run($module, routing_logits, routing_bias, hidden_states, hidden_states_scale, gemm1_weights, gemm1_weights_scale, "
     "gemm2_weights, gemm2_weights_scale, local_expert_offset, routed_scaling_factor, output, /)\n--\n\n"
     "Launches the layer on the current stream of the tensors' device."},
    {nullptr, nullptr, 0, nullptr},
};

static PyModuleDef module = {
    PyModuleDef_HEAD_INIT, C10_STRINGIZE(TORCH_EXTENSION_NAME), "FP8 block-scale MoE for Hopper.", -1, methods,
    nullptr, nullptr, nullptr, nullptr,
};

}  // namespace hopper_v9

PyMODINIT_FUNC C10_CONCATENATE(PyInit_, TORCH_EXTENSION_NAME)() { return PyModule_Create(&hopper_v9::module); }
