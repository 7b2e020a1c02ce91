;; Runs for ever in the tightest loop there is, and has no memory at all.
(module
  (func $spin (export "faasm_call") (result i32)
    (loop $again
      (br $again))
    (unreachable)))
