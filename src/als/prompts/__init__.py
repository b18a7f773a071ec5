"""What is said to a model, as templates: `solver` asks for an answer, `verifier` for a judgement of one."""
