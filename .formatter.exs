[
  inputs: ["{mix,mix_native,.formatter}.exs", "{config,lib,test,examples,bench}/**/*.{ex,exs}"]
]
