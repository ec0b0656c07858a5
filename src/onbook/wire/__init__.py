"""What goes over HTTP, shared by gateway, worker and client. Imports nothing of ours."""
