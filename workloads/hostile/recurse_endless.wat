;; Calls itself without end, with work left to do after each call, so that the call stack
;; overflows.
(module
  (func $down (param $depth i32) (result i32)
    (i32.add
      (call $down (i32.add (local.get $depth) (i32.const 1)))
      (i32.const 1)))
  (func $start_down (export "faasm_call") (result i32)
    (call $down (i32.const 0))))
