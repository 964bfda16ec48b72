"""An HTTP server over one runtime: Open Inference Protocol V2, OpenAI's embeddings and chat, metrics, health."""
