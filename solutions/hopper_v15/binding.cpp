// The Python module. It reads a call's arguments where they lie, since the host's time up to the launch is part of a call's latency.
// Beside an H200, at T = 1, a call of hopper_v8 through tvm-ffi took 8.9 us of the host's time, one of hopper_v9 through a module
// like this 5.7 (results/2026-11-28-h200-hopper-v9/host.log).
//
// The builder asks for no optimisation and leaves torch's debug assertions in.
#ifndef NDEBUG
#define NDEBUG
#endif
#pragma GCC optimize("O2", "inline")

#include <torch/csrc/autograd/python_variable.h>

#include <c10/core/GradMode.h>
#include <c10/cuda/CUDAStream.h>

#include <cfloat>
#include <climits>
#include <cmath>
#include <cstdarg>
#include <exception>
#include <stdexcept>

#include "arguments.cuh"

namespace hopper_v15 {

constexpr int kArguments = 11;

// Sets a Python error; false.
[[gnu::cold, gnu::noinline]] static bool refuse(PyObject* kind, const char* format, ...) {
  va_list values;
  va_start(values, format);
  PyErr_FormatV(kind, format, values);
  va_end(values);
  return false;
}

// Puts the argument's name before the text of the Python error that a conversion has set; false. The error becomes the cause of one of
// its type. It stays what it is where there can be none: its type wants more than a text, or is no Exception (a KeyboardInterrupt).
[[gnu::cold, gnu::noinline]] static bool refuse_with_name(const char* name) {
  PyObject *kind, *error, *trace;
  PyErr_Fetch(&kind, &error, &trace);
  PyErr_NormalizeException(&kind, &error, &trace);
  PyObject* named = nullptr;
  if (PyErr_GivenExceptionMatches(error, PyExc_Exception)) {
    if (PyObject* text = PyUnicode_FromFormat("%s: %S", name, error)) {
      named = PyObject_CallFunctionObjArgs(kind, text, nullptr);
      Py_DECREF(text);
    }
    if (named && !PyExceptionInstance_Check(named)) Py_CLEAR(named);
    if (!named) PyErr_Clear();
  }
  if (!named) {
    PyErr_Restore(kind, error, trace);
    return false;
  }
  if (trace) PyException_SetTraceback(error, trace);
  PyException_SetCause(named, error);  // takes the reference
  PyErr_SetObject(reinterpret_cast<PyObject*>(Py_TYPE(named)), named);
  Py_DECREF(named);
  Py_DECREF(kind);
  Py_XDECREF(trace);
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
  // A call is no node of autograd's graph. Nor does it make a new version of `output`: a graph that has kept that does not notice.
  if (written && t.requires_grad() && c10::GradMode::is_enabled()) {
    return refuse(PyExc_ValueError, "%s: requires grad; only under torch.no_grad()", name);
  }
  result.sizes = t.sizes().data();
  result.data = written ? t.mutable_data_ptr() : const_cast<void*>(t.const_data_ptr());
  if (!result.data && t.numel() > 0) return refuse(PyExc_ValueError, "%s: has no memory", name);  // a fake tensor, for one
  if (reinterpret_cast<uintptr_t>(result.data) % 16 != 0) return refuse(PyExc_ValueError, "%s: must be 16-byte aligned", name);
  return true;
}

// An int or what has __index__.
static bool read_int(PyObject* argument, const char* name, int& result) {
  int overflow = 0;
  const long value = PyLong_AsLongAndOverflow(argument, &overflow);
  if (value == -1 && PyErr_Occurred()) return refuse_with_name(name);
  if (overflow || value < INT_MIN || value > INT_MAX) return refuse(PyExc_ValueError, "%s: beyond 32 bits", name);
  result = static_cast<int>(value);
  return true;
}

// A float or what has __float__ or __index__.
static bool read_float(PyObject* argument, const char* name, float& result) {
  const double value = PyFloat_AsDouble(argument);
  if (value == -1.0 && PyErr_Occurred()) return refuse_with_name(name);
  if (std::isfinite(value) && std::fabs(value) > FLT_MAX) return refuse(PyExc_ValueError, "%s: beyond a float32", name);
  result = static_cast<float>(value);
  return true;
}

static bool read(PyObject* const* in, Arguments& a) {
  using c10::ScalarType;
  constexpr ScalarType kFp8 = ScalarType::Float8_e4m3fn;
  int& device = a.device;
  device = -1;
  // The scalars first: their conversion may run Python code, which may change a tensor.
  return read_int(in[8], "local_expert_offset", a.expert_offset) &&
         read_float(in[9], "routed_scaling_factor", a.scaling) &&
         read_tensor(in[2], "hidden_states", kFp8, 2, false, device, a.x) &&
         read_tensor(in[0], "routing_logits", ScalarType::Float, 2, false, device, a.logits) &&
         read_tensor(in[1], "routing_bias", ScalarType::BFloat16, 1, false, device, a.bias) &&
         read_tensor(in[3], "hidden_states_scale", ScalarType::Float, 2, false, device, a.x_scale) &&
         read_tensor(in[4], "gemm1_weights", kFp8, 3, false, device, a.w13) &&
         read_tensor(in[5], "gemm1_weights_scale", ScalarType::Float, 3, false, device, a.w13_scale) &&
         read_tensor(in[6], "gemm2_weights", kFp8, 3, false, device, a.w2) &&
         read_tensor(in[7], "gemm2_weights_scale", ScalarType::Float, 3, false, device, a.w2_scale) &&
         read_tensor(in[10], "output", ScalarType::BFloat16, 2, true, device, a.out);
}

Unlocked::Unlocked() : state_(PyEval_SaveThread()) {}
Unlocked::~Unlocked() { PyEval_RestoreThread(static_cast<PyThreadState*>(state_)); }

// The GIL keeps other threads out of moe.cu, but while an Unlocked lives. No exception leaves this function.
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

}  // namespace hopper_v15

PyMODINIT_FUNC C10_CONCATENATE(PyInit_, TORCH_EXTENSION_NAME)() { return PyModule_Create(&hopper_v15::module); }
